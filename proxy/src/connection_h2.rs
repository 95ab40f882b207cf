//! The loop of one HTTP/2 connection: streams in, what they say out, and the ways in which it ends.
//!
//! Owns which streams are taken and when the connection goes away. What a stream says is `client_stream.rs`', what happens to
//! its request `forward.rs`'. Only the task of this loop moves bytes.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use pingora::protocols::http::v2::server::{
    H2Options, default_h2_options, handshake as h2_handshake,
};
use tokio::sync::Notify;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, timeout};

use crate::access::Record;
use crate::alarm::Alarm;
use crate::client_session::ClientSession;
use crate::client_stream::ClientStream;
use crate::connection::LINGER_TIME;
use crate::forward::{Connection, Request};
use crate::headers::X_REQUEST_ID;
use crate::lull::{Due, GoingOn, Lull};
use crate::patience::Patience;
use crate::request_head::{FrameFault, RequestHead};
use crate::worker::{Phase, Settings, Worker};

/// Serves a connection whose client chose HTTP/2, to its end.
pub async fn serve(connection: Arc<Connection>, worker: Arc<Worker>, settings: &Settings) {
    let options = h2_options(settings);
    let stream = Box::new(connection.io.clone());
    let preface = h2_handshake(stream, Some(options));
    let Ok(Ok(mut h2)) = timeout(settings.timeouts.request_head, preface).await else {
        worker.shared.metrics.reject("h2_preface");
        return;
    };
    // The preface is out; a client may have waited for it.
    connection.io.gather_writes();
    let active = Arc::new(Active::default());
    let patience = Patience::new(
        settings.timeouts.client_stall,
        settings.limits.client_bytes_per_second,
    );
    let mut lull = Lull::new(patience, Instant::now());
    let mut alarm = Alarm::new();
    let mut accepted = 0;
    let mut malformed = 0;
    let mut is_going_away = false;
    let mut ends_by: Option<Instant> = None;
    let head_overdue = connection.io.head_overdue(settings.timeouts.request_head);
    tokio::pin!(head_overdue);
    let mut is_overdue = false;
    // These are polled often: one future for all times. The first is seen also where reading has used up the task's budget, as
    // it has in each turn of a fast upload.
    let handed_over = unconstrained(worker.shared.reached(Phase::HandedOver));
    tokio::pin!(handed_over);
    let let_go = connection.let_go.notified();
    tokio::pin!(let_go);
    loop {
        let idle = if is_overdue {
            Duration::ZERO
        } else if is_going_away {
            settings.timeouts.h2_drain
        } else {
            settings.timeouts.idle
        };
        let io = &connection.io;
        let step = poll_fn(|cx| {
            if let Poll::Ready(next) = h2.poll_accept(cx) {
                return Poll::Ready(Step::Accepted(next));
            }
            // Behind the codec: all that it had to say leaves at once.
            let is_written = match io.poll_write_out(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_)) => return Poll::Ready(Step::ClientGone),
                Poll::Pending => false,
            };
            let on = GoingOn {
                is_serving: active.is_any(),
                is_sending: !is_written || h2.has_streams(),
                sent: io.body_sent(),
            };
            if ends_by.is_some() {
                return Poll::Pending;
            }
            let Some((at, due)) = lull.due(on, idle, Instant::now()) else {
                return Poll::Pending;
            };
            alarm.set(at);
            alarm.poll(cx).map(|()| Step::Lull(due))
        });
        let step = tokio::select! {
            biased;
            // What has arrived is taken before anything else is looked at: the task's budget ends it, and at the latest
            // `limits.h2_streams`, since nothing is served meanwhile.
            step = step => step,
            () = handed_over.as_mut(), if !is_going_away => Step::GoAway,
            () = let_go.as_mut(), if !is_going_away => Step::GoAway,
            () = io.flooded() => {
                worker.shared.metrics.reject("h2_control_frames");
                Step::Abuse
            }
            () = until(ends_by) => return,
            () = head_overdue.as_mut(), if !is_overdue => {
                // Nothing else can come before that head is complete (RFC 9113 s6.10); what is being answered may end.
                worker.shared.metrics.reject("request_head_timeout");
                is_overdue = true;
                Step::GoAway
            }
            // A look at what goes on now.
            () = active.fell.notified() => continue,
        };
        let (request, response) = match step {
            Step::Accepted(Some(Ok(request))) => request,
            Step::Accepted(None) | Step::ClientGone => return,
            Step::Accepted(Some(Err(error))) => {
                if let Some(limit) = broken_rule(&error) {
                    worker.shared.metrics.reject(limit);
                }
                return;
            }
            Step::Lull(Due::Stalled) => {
                worker.shared.metrics.reject("client_stall");
                return io.reset();
            }
            // The last word says which streams were taken: others are safe to repeat (RFC 9113 s6.8).
            Step::Lull(Due::Idle) if is_going_away => {
                ends_by = Some(Instant::now() + LINGER_TIME);
                h2.abrupt_shutdown(Reason::NO_ERROR);
                continue;
            }
            // GOAWAY first: a request that is on its way is refused in a way that is safe to repeat.
            Step::Lull(Due::Idle) | Step::GoAway => {
                is_going_away = true;
                h2.graceful_shutdown();
                lull.begin_anew(Instant::now());
                continue;
            }
            Step::Abuse => {
                is_going_away = true;
                ends_by = Some(Instant::now() + LINGER_TIME);
                h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                continue;
            }
        };
        let (parts, body) = request.into_parts();
        match RequestHead::from_frames(&parts) {
            Ok(head) => {
                accepted += 1;
                // One connection may carry the requests of many: a CDN's does.
                malformed = u32::saturating_sub(malformed, 1);
                if accepted >= settings.limits.requests_per_connection && !is_going_away {
                    is_going_away = true;
                    h2.graceful_shutdown();
                }
                let stream = ClientStream::new(body, response);
                spawn_stream(head, stream, &connection, &worker, &active);
            }
            Err(fault) => {
                worker.shared.metrics.reject("malformed");
                refuse_stream(fault, response, &connection, &worker);
                malformed += 1;
                if malformed == H2_MALFORMED_MAX && !is_going_away {
                    is_going_away = true;
                    h2.graceful_shutdown();
                } else if malformed >= 2 * H2_MALFORMED_MAX && ends_by.is_none() {
                    ends_by = Some(Instant::now() + LINGER_TIME);
                    h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
            }
        }
    }
}

type Accepting = Result<(http::Request<RecvStream>, SendResponse<Bytes>), h2::Error>;

/// What comes next on an HTTP/2 connection.
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
enum Step {
    /// None at the end of the connection.
    Accepted(Option<Accepting>),
    ClientGone,
    Lull(Due),
    /// No new streams are wanted.
    GoAway,
    /// Nothing at all is wanted of this client.
    Abuse,
}

/// Ends the stream of a request that is malformed, and no other (RFC 9113 s8.1.1).
fn refuse_stream(
    fault: FrameFault,
    mut response: SendResponse<Bytes>,
    connection: &Connection,
    worker: &Worker,
) {
    let mut record = Record::refused(connection);
    let status = http::StatusCode::BAD_REQUEST;
    match fault {
        FrameFault::Framing => response.send_reset(Reason::PROTOCOL_ERROR),
        FrameFault::Path | FrameFault::NoHost | FrameFault::Hosts => {
            let mut head = http::Response::new(());
            *head.status_mut() = status;
            let fields = head.headers_mut();
            fields.insert(X_REQUEST_ID, record.request_id.to_value());
            // It fails where the client has reset the stream itself.
            response.send_response(head, true).ok();
        }
    }
    record.refused_with(status, 0);
    worker.finished(&record, None);
}

/// What the codec ended a connection for: more of something than it takes (resets, CONTINUATION, empty DATA, heads that
/// unpack to more than they may), or frames that are none.
fn broken_rule(error: &h2::Error) -> Option<&'static str> {
    let reason = error.reason().filter(|_| error.is_library())?;
    match reason {
        Reason::ENHANCE_YOUR_CALM => Some("h2_flood"),
        _ => Some("h2_malformed"),
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn spawn_stream(
    head: RequestHead,
    stream: ClientStream,
    connection: &Arc<Connection>,
    worker: &Arc<Worker>,
    active: &Arc<Active>,
) {
    let connection = Arc::clone(connection);
    let worker = Arc::clone(worker);
    let one = ActiveOne::count(active);
    // Boxed here: the runtime moves what it is given several times, and this is some kilobytes.
    tokio::spawn(Box::pin(async move {
        let session = ClientSession::H2(stream);
        let settings = worker.shared.settings.load_full();
        let mut alarm = one.0.take_alarm();
        let request = Request::new(
            head,
            session,
            &connection,
            &worker,
            &settings,
            false,
            &mut alarm,
        );
        request.serve().await;
        one.0.leave_alarm(alarm);
        drop(one);
    }));
}

fn h2_options(settings: &Settings) -> H2Options {
    let mut options = default_h2_options();
    let head_bytes = u32::try_from(settings.limits.head_bytes).unwrap_or(u32::MAX);
    options
        .max_header_list_size(head_bytes)
        .max_concurrent_streams(settings.limits.h2_streams)
        .initial_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_send_buffer_size(H2_SEND_BUFFER);
    options
}

/// The streams of one HTTP/2 connection that are being served.
#[derive(Default)]
struct Active {
    count: AtomicUsize,
    /// To nothing.
    fell: Notify,
    /// Alarms that ended streams have left: `len <= ALARMS_KEPT`. Making a timer costs more than setting it anew.
    alarms: Mutex<Vec<Alarm>>,
}

impl Active {
    fn is_any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    fn take_alarm(&self) -> Alarm {
        self.alarms().pop().unwrap_or_default()
    }

    fn leave_alarm(&self, alarm: Alarm) {
        let mut alarms = self.alarms();
        if alarms.len() < ALARMS_KEPT {
            alarms.push(alarm);
        }
    }

    fn alarms(&self) -> MutexGuard<'_, Vec<Alarm>> {
        // Nothing panics while it holds the lock.
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ActiveOne(Arc<Active>);

impl ActiveOne {
    fn count(active: &Arc<Active>) -> ActiveOne {
        active.count.fetch_add(1, Ordering::AcqRel);
        ActiveOne(Arc::clone(active))
    }
}

impl Drop for ActiveOne {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.fell.notify_one();
        }
    }
}

/// Timers that a connection at rest keeps.
const ALARMS_KEPT: usize = 8;
/// Requests of one HTTP/2 connection that may be malformed, above those that were good, before it takes no new ones. With
/// twice as many it is closed.
const H2_MALFORMED_MAX: u32 = 32;
/// Upload bytes under way per stream and per connection: 1 MiB at 50 ms round trip is 160 Mbit/s.
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_CONNECTION_WINDOW: u32 = 4 << 20;
/// Response bytes that wait per stream for the client's window.
const H2_SEND_BUFFER: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn alarms_are_used_again_and_few_are_kept() {
        let active = Active::default();
        for _ in 0..2 * ALARMS_KEPT {
            let mut alarm = Alarm::new();
            alarm.set(Instant::now() + Duration::from_secs(60));
            active.leave_alarm(alarm);
        }
        assert_eq!(active.alarms().len(), ALARMS_KEPT);
        let mut again = active.take_alarm();
        assert_eq!(active.alarms().len(), ALARMS_KEPT - 1);
        // What the stream before it had set does not ring for this one.
        let start = Instant::now();
        again.set(start + Duration::from_secs(90));
        again.rings().await;
        assert_eq!(start.elapsed().as_secs(), 90);
    }
}
