//! What a run has said: which lines, until when to wait for them, and how they are shown. One selection serves every
//! door: the tool, the command line and `GET /output`.

pub mod cursor;
pub mod lines;
pub mod query;
pub mod view;
pub mod wait;
