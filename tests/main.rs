//! Tests on the real binary: real children, real sockets, a free port and a temporary data directory each. A file per
//! promise; `support` is what they share.

mod attributes;
mod support;

mod agents;
mod bridge;
mod commands;
mod crash;
mod cursor;
mod damage;
mod disk;
mod eras;
mod escapes;
mod floods;
mod follow;
mod forgery;
mod gate;
mod http_hostile;
mod http_peers;
mod json;
mod limits;
mod mcp;
mod naming;
mod orphans;
mod other_users;
mod output;
mod promises;
mod readers;
mod reaping;
mod refusals;
mod replaced;
mod rooms;
mod rotation;
mod searches;
mod secrets;
mod selection;
mod server;
mod socket;
mod stop;
mod torture;
mod upgrade;
mod usage;
mod view;
mod waiting;
mod waits;
mod wrapper;
