//! The Model Context Protocol: envelope, both eras on one endpoint, and the three tools as data. Knows neither sockets
//! nor HTTP; the transport passes in the headers that the protocol has rules for.

mod batch;
pub mod protocol;
pub mod rpc;
pub mod text;
pub mod tools;
