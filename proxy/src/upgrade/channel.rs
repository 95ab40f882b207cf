//! One end of the socket pair of a handover: whole messages, and descriptors beside them.
//!
//! Owns the sending and receiving. A message is one packet, so that it arrives whole or not at all; what it means is in
//! `message.rs`. An end that is closed, however its process ended, is seen by the other one as the end of the channel.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The longest message. The kernel's buffer has room for it.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Descriptors of one message; the kernel takes 253.
pub const DESCRIPTORS_MAX: usize = 128;

/// One end.
#[derive(Debug)]
pub struct Channel {
    /// Of packets, whatever its type says: only the calls of this file are made on it.
    socket: UnixStream,
}

/// A message and what came with it.
#[derive(Debug)]
pub struct Message {
    /// JSON, as it was sent.
    pub bytes: Vec<u8>,
    /// In the order in which they were sent; closed in processes that this one starts.
    pub descriptors: Vec<OwnedFd>,
}

/// The channel does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// No pair, or no watching of it.
    #[error("cannot make the channel of a handover")]
    Open(#[source] io::Error),
    /// The other end is gone, or the message is too much for the kernel.
    #[error("cannot send to the other process")]
    Send(#[source] io::Error),
    /// The kernel does not say what was sent.
    #[error("cannot receive from the other process")]
    Receive(#[source] io::Error),
    /// More than [`MESSAGE_BYTES_MAX`] or [`DESCRIPTORS_MAX`].
    #[error("a message of a handover is too large")]
    TooLarge,
}

impl Channel {
    /// One end for this process, and one for a process that it starts.
    ///
    /// # Errors
    /// `Open`. Call it in a runtime.
    pub fn pair() -> Result<(Channel, OwnedFd), ChannelError> {
        let flags = SocketFlags::CLOEXEC;
        let (here, there) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|error| ChannelError::Open(error.into()))?;
        Ok((Channel::on(here)?, there))
    }

    /// The end that this process was started with.
    ///
    /// # Errors
    /// `Open`. Call it in a runtime.
    pub fn on(socket: OwnedFd) -> Result<Channel, ChannelError> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true).map_err(ChannelError::Open)?;
        let socket = UnixStream::from_std(socket).map_err(ChannelError::Open)?;
        Ok(Channel { socket })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// `Send`, `TooLarge`
    pub async fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message).map_err(|_| ChannelError::TooLarge)?;
        if bytes.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(ChannelError::TooLarge);
        }
        let once = || {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                // There is room for as many as are allowed above.
                beside.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut beside, flags)?;
            Ok(())
        };
        let sending = self.socket.async_io(Interest::WRITABLE, once);
        sending.await.map_err(ChannelError::Send)
    }

    /// The next message; none if the other end is closed.
    ///
    /// # Errors
    /// `Receive`, `TooLarge`
    ///
    /// # Cancel safety
    /// A message is received whole, or stays where it is.
    pub async fn receive(&self) -> Result<Option<Message>, ChannelError> {
        let once = || {
            let mut bytes = vec![0; MESSAGE_BYTES_MAX];
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let received = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut beside,
                flags,
            )?;
            let mut descriptors = Vec::new();
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            bytes.truncate(received.bytes);
            let is_cut = received
                .flags
                .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
            Ok((Message { bytes, descriptors }, is_cut))
        };
        let received = self.socket.async_io(Interest::READABLE, once).await;
        match received {
            Ok((_, true)) => Err(ChannelError::TooLarge),
            Ok((message, false)) if message.bytes.is_empty() => Ok(None),
            Ok((message, false)) => Ok(Some(message)),
            // It ended with something unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(ChannelError::Receive(error)),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_whole_and_in_order_with_their_descriptors() {
        let (here, there) = Channel::pair().expect("a pair");
        let there = Channel::on(there).expect("its other end");
        let file = tempfile::tempfile().expect("a file");
        here.send(&"first", &[file.as_fd(), file.as_fd()])
            .await
            .expect("sent");
        here.send(&"x".repeat(60_000), &[]).await.expect("sent");
        let first = there.receive().await.expect("received").expect("one");
        assert_eq!(first.bytes, b"\"first\"");
        assert_eq!(first.descriptors.len(), 2);
        let second = there.receive().await.expect("received").expect("one");
        assert_eq!(second.bytes.len(), 60_002);
        assert!(second.descriptors.is_empty());
        drop(here);
        assert!(there.receive().await.expect("the end").is_none());
        let error = there.send(&"late", &[]).await.expect_err("nobody is there");
        assert!(matches!(error, ChannelError::Send(_)));
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_sent() {
        let (here, _there) = Channel::pair().expect("a pair");
        let long = "x".repeat(MESSAGE_BYTES_MAX);
        let error = here.send(&long, &[]).await.expect_err("too long");
        assert!(matches!(error, ChannelError::TooLarge));
        let many = vec![here.as_fd(); DESCRIPTORS_MAX + 1];
        let error = here.send(&"x", &many).await.expect_err("too many");
        assert!(matches!(error, ChannelError::TooLarge));
    }
}
