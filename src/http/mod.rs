//! HTTP/1.1 on blocking sockets: a server with a thread per connection and an end to every wait, and a client for one
//! server on this machine. Knows no JSON and nothing of what is asked or answered.

pub mod buffer;
pub mod client;
mod connection;
pub mod head;
pub mod request_reader;
pub mod server;
pub mod service;
mod shared;
pub mod socket;

/// Largest head of a request or an answer, in bytes.
pub const HEAD_MAX: usize = 16 << 10;
