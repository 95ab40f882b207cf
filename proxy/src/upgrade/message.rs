//! What the two processes of a handover say to each other: one JSON object in each message.
//!
//! Owns the shapes. Descriptors travel beside a message, in the order that it names them. Fields that a process does not
//! know are passed over, so that a newer one may say more under the same version.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::edge::Scheme;
use crate::inherit::{Place, Wanted};
use crate::tickets::Secret;

/// From the predecessor to the successor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "snake_case")]
pub enum Down {
    /// The first message of all.
    Hello {
        /// [`super::PROTOCOL`]
        protocol: u32,
        /// Of the predecessor.
        version: String,
        /// Of the predecessor.
        pid: u32,
        /// What the descriptors of this message are.
        sockets: Vec<Role>,
    },
    /// The successor may open the state; its lock is the one descriptor.
    Go {
        /// The keys of session tickets, the current one first.
        tickets: Vec<Secret>,
    },
    /// The successor is the service and the writer.
    Commit {
        /// The first line for its journal.
        entry: Map<String, Value>,
    },
    /// What the predecessor still has.
    Left(Left),
}

/// From the successor to the predecessor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "snake_case")]
pub enum Up {
    /// Everything that can fail for a reason in the configuration has not.
    Prepared {
        /// [`super::PROTOCOL`]
        protocol: u32,
        /// Of the successor.
        version: String,
    },
    /// It ends.
    Failed {
        /// Why.
        error: String,
        /// What the operator can do.
        hint: Option<String>,
    },
    /// It accepts.
    Ready,
    /// It is the writer.
    Serving,
    /// It has published this state, as it is stored.
    Follow {
        /// `State::to_text`
        state: String,
        /// Sites that are paused, which is not stored.
        #[serde(default)]
        paused: Vec<String>,
    },
    /// Tunnels of a slot are to be closed.
    CutTunnels {
        /// The site.
        host: String,
        /// `blue` or `green`
        slot: mana_control::Slot,
    },
}

/// What a predecessor still has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The last generation that it has followed.
    pub generation: u64,
    /// Open client connections.
    pub connections: u64,
    /// Open websockets.
    pub tunnels: u64,
    /// Requests and tunnels of each site, blue and green.
    pub in_flight: Vec<(String, [u64; 2])>,
    /// The longest that it may still take.
    pub at_most_ms: u64,
}

/// What a descriptor is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Role {
    /// A socket of `[listen]`.
    Listener {
        /// Whether its clients speak TLS.
        https: bool,
        /// As the predecessor's configuration has it.
        wanted: SocketAddr,
        /// Where it is bound.
        address: SocketAddr,
        /// A socket unit holds it too.
        is_kept_outside: bool,
    },
    /// The control socket.
    Control {
        /// Where it is.
        path: PathBuf,
    },
    /// The socket of `[admin]`.
    Admin {
        /// As the predecessor's configuration has it.
        wanted: SocketAddr,
    },
    /// What the successor's stderr is to be once it takes over.
    Stderr,
}

/// What can be read of a hello of any version.
#[derive(Debug, Deserialize)]
pub struct AnyHello {
    /// The version of the protocol.
    pub protocol: u32,
}

impl Role {
    /// The role of a listening socket.
    pub fn of(place: &Place, wanted: Wanted) -> Role {
        Role::Listener {
            https: wanted.scheme == Scheme::Https,
            wanted: wanted.address,
            address: place.address,
            is_kept_outside: place.is_kept_outside,
        }
    }

    /// Where the socket of this role is bound, if it is a listener's.
    pub fn place(&self) -> Option<Place> {
        let Role::Listener {
            https,
            wanted,
            address,
            is_kept_outside,
        } = self
        else {
            return None;
        };
        let scheme = match https {
            true => Scheme::Https,
            false => Scheme::Http,
        };
        Some(Place {
            address: *address,
            wanted: Some(Wanted {
                scheme,
                address: *wanted,
            }),
            is_kept_outside: *is_kept_outside,
            name: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_comes_back_from_its_role() {
        let place = Place {
            address: "127.0.0.1:443".parse().expect("an address"),
            wanted: Some(Wanted {
                scheme: Scheme::Https,
                address: "127.0.0.1:0".parse().expect("an address"),
            }),
            is_kept_outside: true,
            name: None,
        };
        let role = Role::of(&place, place.wanted.expect("one"));
        let text = serde_json::to_string(&role).expect("JSON");
        let back: Role = serde_json::from_str(&text).expect("a role");
        assert_eq!(back.place(), Some(place));
        assert_eq!(Role::Stderr.place(), None);
    }

    #[test]
    fn a_newer_process_may_say_more() {
        let line = r#"{"says":"left","generation":3,"connections":1,"tunnels":0,"in_flight":[["a.so",[1,0]]],
            "at_most_ms":5,"mood":"fine"}"#;
        let read: Down = serde_json::from_str(line).expect("understood");
        assert!(matches!(read, Down::Left(left) if left.in_flight[0].1 == [1, 0]));
        let hello = r#"{"says":"hello","protocol":9,"everything":"else"}"#;
        let any: AnyHello = serde_json::from_str(hello).expect("understood");
        assert_eq!(any.protocol, 9);
    }
}
