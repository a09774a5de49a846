//! Tests on the real binary: real children, real sockets, a free port and a temporary data directory each. A file per
//! promise; `support` is what they share.

mod support;

mod agents;
mod bridge;
mod commands;
mod crash;
mod cursor;
mod damage;
mod eras;
mod floods;
mod forgery;
mod gate;
mod http_hostile;
mod http_peers;
mod json;
mod limits;
mod mcp;
mod output;
mod rooms;
mod rotation;
mod searches;
mod secrets;
mod selection;
mod server;
mod stop;
mod torture;
mod upgrade;
mod usage;
mod view;
mod waiting;
mod waits;
mod wrapper;
