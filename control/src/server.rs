//! The control socket: who may connect, what a line may cost, and the way to the driver and back.
//!
//! Owns the socket file and the connections. A live socket is never stolen, a stale one is replaced. Every line is
//! answered, garbage too; nothing that a peer sends or leaves out costs more than the limits named here.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::caller::{Allowed, Caller};
use crate::driver::{DriverHandle, EVENTS_MAX};
use crate::process;
use crate::reply::{Code, Reply, to_line};
use crate::wire::{LINE_BYTES_MAX, Request, WireError};

/// Time for one whole line to come in.
pub const LINE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may rest after a reply; then it is closed without a word.
pub const REST_DEADLINE: Duration = Duration::from_secs(60);
/// Time for one line to be taken by the peer.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// Connections at one time; the next one is told `busy`.
pub const CONNECTIONS_MAX: usize = 32;
/// How often it is looked whether a peer that waits is still there.
pub const GONE_CHECK: Duration = Duration::from_millis(200);

/// Where the socket is and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// The socket file, for example `/run/mana-proxy/control.sock`. Its mode is 0660.
    pub path: PathBuf,
    /// The group of the socket file; that of the process unless given.
    pub gid: Option<u32>,
    /// Who may give orders, beside root and the daemon's own user.
    pub allowed: Allowed,
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("another daemon listens on {path}; stop it or choose another path")]
    InUse {
        /// The socket file.
        path: PathBuf,
    },
    /// There is a file that is no socket.
    #[error("{path} is there and is no socket; it is left alone")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("cannot listen on {path}")]
    Bind {
        /// The socket file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The bound socket. The file is removed when this is dropped, if it is still the same one.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    allowed: Allowed,
    own_uid: u32,
    door: Door,
}

/// The bound socket as it can be handed to another process.
#[derive(Clone, Debug)]
pub struct Door {
    /// None once it is another process's: whoever held on to it would keep callers waiting that nobody serves.
    socket: Arc<Mutex<Option<OwnedFd>>>,
    is_left: Arc<AtomicBool>,
}

impl Door {
    /// The listening socket once more; none if it was left.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn socket(&self) -> io::Result<Option<OwnedFd>> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// The file is this process's from now on; it is removed in the end.
    pub(crate) fn claim(&self) {
        self.is_left.store(false, Ordering::Release);
    }

    /// The file is another process's from now on; it is not removed.
    pub(crate) fn leave(&self) {
        self.is_left.store(true, Ordering::Release);
        // Nothing panics while it holds the lock.
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

// === impl ControlSocket ===

impl ControlSocket {
    /// Listens; missing directories on the way are made. The socket is made under another name and renamed once its mode is set, so that nobody finds it with
    /// wider rights.
    ///
    /// # Errors
    /// Every variant of [`SocketError`]. A socket that cannot be told to be stale counts as in use.
    pub async fn bind(options: &SocketOptions) -> Result<ControlSocket, SocketError> {
        let path = &options.path;
        let failed = |source| SocketError::Bind {
            path: path.clone(),
            source,
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        make_way(path).await?;
        let temp = path.with_file_name(format!(".control-{}", std::process::id()));
        match std::fs::remove_file(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&temp).map_err(failed)?;
        let identity = put_in_place(&temp, options).map_err(|source| {
            // What is left is a name that the next start removes.
            std::fs::remove_file(&temp).ok();
            failed(source)
        })?;
        ControlSocket::on(listener, identity, options)
    }

    /// Takes over a socket that another process has bound to this path, and may still serve: the file is left alone
    /// until [`crate::start::Opened::serve_on`].
    ///
    /// # Errors
    /// `Bind`: it is no listening unix socket, or the file is gone.
    pub fn take_over(
        socket: OwnedFd,
        options: &SocketOptions,
    ) -> Result<ControlSocket, SocketError> {
        let failed = |source| SocketError::Bind {
            path: options.path.clone(),
            source,
        };
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let identity = identity(&options.path).map_err(failed)?;
        let socket = ControlSocket::on(listener, identity, options)?;
        socket.door.is_left.store(true, Ordering::Release);
        Ok(socket)
    }

    fn on(
        listener: UnixListener,
        identity: (u64, u64),
        options: &SocketOptions,
    ) -> Result<ControlSocket, SocketError> {
        let failed = |source| SocketError::Bind {
            path: options.path.clone(),
            source,
        };
        let door = Door {
            socket: Arc::new(Mutex::new(Some(
                listener.as_fd().try_clone_to_owned().map_err(failed)?,
            ))),
            is_left: Arc::default(),
        };
        Ok(ControlSocket {
            listener,
            path: options.path.clone(),
            identity,
            allowed: options.allowed.clone(),
            own_uid: process::own_uid().map_err(failed)?,
            door,
        })
    }

    /// For the process that takes over.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// Serves until `stopping` turns true or its sender is gone; then requests that are under way are answered.
    pub async fn serve(self, driver: DriverHandle, mut stopping: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        let until_stopping = stopping.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                // First: who connects after a handover is the new process's.
                _ = stopping.wait_for(|stopping| *stopping) => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) if connections.len() >= CONNECTIONS_MAX => {
                    turn_away(
                        &stream,
                        &Reply::refusal(Code::Busy, "too many control connections; try again"),
                    );
                }
                Ok((stream, _)) => match self.admit(&stream) {
                    Ok(caller) => {
                        let conversation =
                            converse(stream, caller, driver.clone(), until_stopping.clone());
                        connections.spawn(conversation);
                    }
                    Err(reply) => turn_away(&stream, &reply),
                },
                Err(error) => {
                    warn!(%error, "cannot accept a control connection");
                    // Out of file descriptors, most likely: a loop without a pause would not help.
                    tokio::time::sleep(GONE_CHECK).await;
                }
            }
        }
        while connections.join_next().await.is_some() {}
    }

    fn admit(&self, stream: &UnixStream) -> Result<Caller, Reply> {
        let caller = Caller::of(stream).map_err(|error| {
            Reply::refusal(
                Code::Refused,
                format!("the kernel does not say who calls: {error}"),
            )
        })?;
        if self.allowed.admits(&caller, self.own_uid) {
            return Ok(caller);
        }
        warn!(
            uid = caller.uid,
            gid = caller.gid,
            pid = caller.pid,
            "control connection refused"
        );
        Err(Reply::refusal(
            Code::Refused,
            format!("uid {} may not give orders here", caller.uid),
        )
        .with_hint("an operator adds users and groups to the control section of the configuration"))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if !self.door.is_left.load(Ordering::Acquire)
            && identity(&self.path).is_ok_and(|identity| identity == self.identity)
        {
            // A file that cannot be removed is a stale socket, which the next start replaces.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

/// Whether a socket may be put at this path.
async fn make_way(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Bind {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            info!(path = %path.display(), "a stale control socket is replaced");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed(error)),
        // A full backlog is a live daemon too.
        Ok(_) | Err(_) => Err(SocketError::InUse {
            path: path.to_owned(),
        }),
    }
}

fn put_in_place(temp: &Path, options: &SocketOptions) -> io::Result<(u64, u64)> {
    if options.gid.is_some() {
        std::os::unix::fs::chown(temp, None, options.gid)?;
    }
    std::fs::set_permissions(temp, std::fs::Permissions::from_mode(0o660))?;
    let identity = identity(temp)?;
    std::fs::rename(temp, &options.path)?;
    Ok(identity)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// One line into the empty buffer of a new connection, without waiting.
fn turn_away(stream: &UnixStream, reply: &Reply) {
    // A peer that is gone already is not told.
    stream.try_write(reply.to_line().as_bytes()).ok();
}

/// Line in, line out, until the peer ends or lets a deadline pass.
async fn converse(
    mut stream: UnixStream,
    caller: Caller,
    driver: DriverHandle,
    mut stopping: watch::Receiver<bool>,
) {
    let (read, mut write) = stream.split();
    let mut lines: BufReader<ReadHalf<'_>> = BufReader::new(read);
    let mut has_spoken = false;
    loop {
        if has_spoken {
            // Somebody at a terminal thinks between two requests; a silence is no fault.
            let more = tokio::select! {
                more = timeout(REST_DEADLINE, lines.fill_buf()) => more,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            if !matches!(more, Ok(Ok(bytes)) if !bytes.is_empty()) {
                return;
            }
        }
        has_spoken = true;
        let line = tokio::select! {
            line = timeout(LINE_DEADLINE, read_line(&mut lines)) => line,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let (reply, is_last) = match line {
            Ok(Ok(Line::End)) | Ok(Err(_)) => return,
            Ok(Ok(Line::TooLong)) => (invalid(&WireError::TooLong), true),
            Err(_) => (late(), true),
            Ok(Ok(Line::Whole(line))) => match Request::parse(&line) {
                Err(error) => (invalid(&error), false),
                Ok(request) => match carry_out(request, &caller, &driver, &mut write).await {
                    Some(reply) => (reply, false),
                    None => return,
                },
            },
        };
        if send(&mut write, &reply.to_line()).await.is_err() || is_last {
            return;
        }
    }
}

fn invalid(error: &WireError) -> Reply {
    Reply::refusal(Code::Invalid, error)
}

fn late() -> Reply {
    Reply::refusal(Code::Invalid, "no whole line came within 10 s")
}

/// The reply; none if the peer went away, in which case the call is dropped and with it a gate.
async fn carry_out(
    request: Request,
    caller: &Caller,
    driver: &DriverHandle,
    write: &mut WriteHalf<'_>,
) -> Option<Reply> {
    let (events, mut lines) = mpsc::channel(EVENTS_MAX);
    let events = request.progress.then_some(events);
    let call = driver.call(request, caller.clone(), events);
    tokio::pin!(call);
    let mut check = tokio::time::interval(GONE_CHECK);
    loop {
        tokio::select! {
            biased;
            // Event lines that are there come before the reply.
            Some(line) = lines.recv() => send(write, &to_line(&line)).await.ok()?,
            reply = &mut call => return Some(reply),
            _ = check.tick() => if is_gone(write).await { return None },
        }
    }
}

/// Whether the peer has closed both directions. One that has only said that it sends no more, as `nc` may, still waits.
async fn is_gone(write: &WriteHalf<'_>) -> bool {
    match write.ready(Interest::WRITABLE).await {
        Ok(ready) => ready.is_write_closed(),
        Err(_) => true,
    }
}

async fn send(write: &mut WriteHalf<'_>, line: &str) -> io::Result<()> {
    timeout(WRITE_DEADLINE, write.write_all(line.as_bytes()))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[derive(Debug, PartialEq)]
enum Line {
    /// Without its newline. The last line of a peer that ends needs none.
    Whole(Vec<u8>),
    TooLong,
    End,
}

async fn read_line(lines: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Line> {
    let mut line = Vec::new();
    loop {
        let available = lines.fill_buf().await?;
        if available.is_empty() {
            return Ok(if line.is_empty() {
                Line::End
            } else {
                Line::Whole(line)
            });
        }
        let newline = available.iter().position(|byte| *byte == b'\n');
        let part = newline.unwrap_or(available.len());
        if line.len() + part >= LINE_BYTES_MAX {
            return Ok(Line::TooLong);
        }
        line.extend_from_slice(&available[..part]);
        lines.consume(part + usize::from(newline.is_some()));
        if newline.is_some() {
            return Ok(Line::Whole(line));
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
