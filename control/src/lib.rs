//! What mana-proxy knows and who may change it: the table of sites, the cutover, the control socket.
//!
//! Owns the table and everything that leads to a new one. Knows nothing of HTTP sessions, TLS or certificates; the
//! `mana-proxy` crate reads the table and serves requests by it.

pub mod caller;
pub mod change;
pub mod client;
pub mod cutover;
pub mod deploy;
pub mod driver;
pub mod failpoint;
pub mod gate;
pub mod health;
pub mod hold;
pub mod hooks;
pub mod host;
pub mod inflight;
pub mod journal;
pub mod probe;
pub mod prober;
pub mod process;
pub mod reply;
pub mod room;
pub mod server;
pub mod slot;
pub mod start;
pub mod state;
pub mod table;
#[cfg(test)]
mod testing;
pub mod upstream;
pub mod wire;
pub mod words;

pub use caller::{Allowed, Caller};
pub use driver::DriverHandle;
pub use hooks::{Prepared, Reloader, StatusExtra};
pub use host::Host;
pub use inflight::{Entry, Inflight};
pub use reply::{Code, Reply};
pub use server::SocketOptions;
pub use slot::Slot;
pub use start::{Opened, Running, ServeOptions, StartError, open};
pub use table::{Mode, NameRole, Published, Site, SiteSettings, SlotView, Table, Trust};
pub use upstream::{Health, Upstream};
pub use wire::{Request, Verb};
