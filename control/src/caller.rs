//! Who calls: the peer of a control connection, as the kernel vouches for it.
//!
//! Owns the check of a peer against the allowed users and groups. What the peer says of itself is never asked.

use std::io;

use tokio::net::UnixStream;

use crate::process;

/// The peer of a control connection. Goes to the journal with each change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective uid at the time of the connect (SO_PEERCRED).
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// Its process, if the kernel knew it.
    pub pid: Option<i32>,
    /// The name of that process, for example `mana-proxy`; empty if it is gone.
    pub command: String,
}

/// Who may give orders, beside root and the daemon's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// These users.
    pub uids: Vec<u32>,
    /// Members of these groups, supplementary groups included.
    pub gids: Vec<u32>,
}

// === impl Caller ===

impl Caller {
    /// The peer of this connection.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Caller> {
        let peer = stream.peer_cred()?;
        Ok(Caller {
            uid: peer.uid(),
            gid: peer.gid(),
            pid: peer.pid(),
            command: peer.pid().map(process::command).unwrap_or_default(),
        })
    }

    /// The daemon itself, for what a signal asks of it. `command` says which: `SIGHUP`.
    pub fn this_process(command: &str) -> Caller {
        Caller {
            // Without /proc the journal says root, which on such a system it is.
            uid: process::own_uid().unwrap_or(0),
            gid: 0,
            pid: i32::try_from(std::process::id()).ok(),
            command: command.to_owned(),
        }
    }
}

// === impl Allowed ===

impl Allowed {
    /// Whether this caller may give orders to a daemon that runs as `own_uid`.
    pub fn admits(&self, caller: &Caller, own_uid: u32) -> bool {
        caller.uid == 0
            || caller.uid == own_uid
            || self.uids.contains(&caller.uid)
            || self.gids.contains(&caller.gid)
            || (!self.gids.is_empty()
                && caller.pid.is_some_and(|pid| {
                    process::groups(pid)
                        .iter()
                        .any(|gid| self.gids.contains(gid))
                }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_the_own_user_and_those_listed_are_admitted() {
        let allowed = Allowed {
            uids: vec![7],
            gids: vec![70],
        };
        let admits = |uid, gid| {
            let caller = Caller {
                uid,
                gid,
                ..Caller::default()
            };
            allowed.admits(&caller, 1000)
        };
        assert!(admits(0, 5) && admits(1000, 5) && admits(7, 5) && admits(8, 70));
        assert!(!admits(8, 5));
        assert!(!Allowed::default().admits(
            &Caller {
                uid: 8,
                gid: 5,
                ..Caller::default()
            },
            1000
        ));
    }

    #[tokio::test]
    async fn the_kernel_says_who_the_peer_is() {
        let (here, _there) = UnixStream::pair().expect("pair");
        let caller = Caller::of(&here).expect("peer");
        let this = Caller::this_process(&caller.command);
        assert_eq!((caller.uid, caller.pid), (this.uid, this.pid));
        assert!(!caller.command.is_empty());
    }
}
