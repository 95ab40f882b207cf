//! The handover to a new process: the same sockets, the same state, nothing refused in between.
//!
//! Owns the protocol between the two processes and both of its ends. The process that goes is the predecessor, the one
//! that comes is the successor. The predecessor starts the successor with one end of a socket pair as its stdin;
//! everything else comes over that: messages, and with them descriptors.
//!
//! ```text
//! predecessor                                successor
//!   hello: protocol, sockets          ->
//!                                              reads its configuration, opens its certificates
//!                                     <-     prepared
//!   puts down its pen, rests its keeper
//!   go: lock, ticket keys             ->
//!                                              opens the state, could accept on the same sockets
//!                                     <-     ready
//!   commit: the line of the journal   ->       is the writer, answers the control socket
//!                                     <-     serving
//!                                              accepts
//!   drains; left: what it still has   ->
//!                                     <-     follow: what was published since
//! ```
//!
//! Until serving the predecessor alone accepts, and can go on as if nothing had been asked: a successor that is ended has
//! nobody to disappoint. From then on the successor is the service; what connects in between waits in the kernel's queue. An end that finds the other one dead does what the two pure files say: [`handing`] and [`taking`].

pub mod arrival;
pub mod before;
pub mod channel;
pub mod failure;
pub mod handing;
pub mod launch;
pub mod linger;
pub mod message;
pub mod outgoing;
pub mod sockets;
pub mod taking;

use std::time::Duration;

/// The version of the protocol. Processes of different versions do not hand over to each other.
pub const PROTOCOL: u32 = 1;

/// Tells a process that its stdin is a handover; the value is the version of the protocol.
pub const HANDOVER_VARIABLE: &str = "MANA_PROXY_HANDOVER";

/// Time for the first message, which is sent before the successor runs.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// Between two reports of what a predecessor still has.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// For the first of them, which is sent at once.
const REPORT_TIME: Duration = Duration::from_secs(2);
/// Messages to a predecessor that may wait; further ones are lost, and a drain then waits for its deadline.
const ORDERS_MAX: usize = 64;
