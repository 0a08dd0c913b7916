//! The one stream to home: dialled, kept, and dialled again.
//!
//! Hello goes out before home's answer is awaited, since home answers nothing sooner. After Welcome the outbound side
//! renders the next frame from the spool whenever the transport has room; nothing is queued. What home says is made
//! durable before it is answered. Blobs travel beside it. A renewed certificate is first used for a stream of its own and replaces the old one
//! when that was welcomed.

pub mod schedule;
mod transfers;
mod wire;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, Stream, stream::unfold};
use muster_proto::{
    MAX_FRAME, PING_EVERY_SECS, PING_WAIT_SECS,
    fleet::{self, Refusal, from_home::Frame, home_client::HomeClient, refusal::Reason},
    refusal,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, interval, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    dial,
    driver::{Kernel, intake},
    identity::{self, Keeper, Slot},
    ledger::Assignment,
};
use schedule::{Ended, Schedule};

/// From Hello to Welcome; home may ping another stream of this identity for some seconds before it answers.
const WELCOME_LIMIT: Duration = Duration::from_secs(30);

/// What is left to say at a stop has this long.
const FAREWELL: Duration = Duration::from_secs(2);

/// However short certificates live, renewing them is not all an agent does.
const RENEW_PAUSE: Duration = Duration::from_millis(200);

/// Assignments made durable in one step.
const BATCH: usize = 64;

/// How often home counts as heard of while its stream is open.
const HEAR: Duration = Duration::from_secs(10);

/// Pings end a dead stream within this time. Where more has passed between two looks, this host slept.
const ASLEEP: Duration = Duration::from_secs(PING_EVERY_SECS + PING_WAIT_SECS);

/// How the link fares, for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// A stream is up and welcomed.
    pub connected: bool,
    /// Address of home last dialled.
    pub home: String,
    /// Since when that is so, milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Version of home's program.
    pub controller_version: String,
    /// Why the last stream ended.
    pub last_error: String,
    /// When the next try is due, milliseconds since the Unix epoch; 0 while connected.
    pub retry_at_ms: i64,
}

/// Keeps the stream.
pub struct Link {
    kernel: Arc<Kernel>,
    keeper: Arc<Keeper>,
    /// The owner's word on where home is; empty: home's own.
    homes: Vec<String>,
    /// The longest wait after a lost stream.
    most: Duration,
    hinted: Vec<String>,
    tries: usize,
    renew_first: bool,
    report: watch::Sender<Report>,
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    Stopped,
    Renewed,
    Left(fleet::Leave),
    Refused(Refusal),
    Lost(String),
}

// === impl Link ===

impl Link {
    /// A link for an identity. `homes` replaces what home says of its addresses unless empty; no wait after a lost stream
    /// is longer than `most`.
    pub fn new(
        kernel: Arc<Kernel>,
        keeper: Arc<Keeper>,
        homes: Vec<String>,
        most: Duration,
        report: watch::Sender<Report>,
    ) -> Self {
        Self { kernel, keeper, homes, most, hinted: Vec::new(), tries: 0, renew_first: false, report }
    }

    /// Keeps the stream until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut schedule = Schedule::new(self.most);
        while !stop.is_cancelled() {
            let began = Instant::now();
            let end = self.attempt(&stop).await;
            let wait = schedule.wait(self.judge(&end), began.elapsed(), chance());
            self.tell(&end, wait);
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(wait) => {}
            }
        }
    }

    async fn attempt(&mut self, stop: &CancellationToken) -> End {
        let homes = self.addresses();
        let Some(home) = homes.get(self.tries % homes.len().max(1)).cloned() else {
            return End::Lost("no address of home is known".into());
        };
        // The old certificate gets its turn too: the candidate may be the one that does not work.
        let candidate = self.keeper.candidate().filter(|_| self.tries.is_multiple_of(2));
        let is_candidate = candidate.is_some();
        let slot = candidate.unwrap_or_else(|| self.keeper.current());
        self.tries += 1;
        self.report.send_modify(|report| report.home.clone_from(&home));
        let session = async {
            let channel = unless(stop, dial::channel(&home, slot.tls.clone())).await?.map_err(End::Lost)?;
            if std::mem::take(&mut self.renew_first) {
                return unless(stop, self.renew(channel)).await?;
            }
            self.session(channel, &slot, is_candidate, stop).await
        };
        let end = session.await.unwrap_or_else(|end: End| end);
        if let End::Refused(refused) = &end
            && is_candidate
            && !matches!(refused.reason(), Reason::Busy | Reason::Leaving | Reason::Clone | Reason::NotYetValid)
            && let Err(e) = self.keeper.discard()
        {
            tracing::warn!(error = %e, "the refused candidate could not be removed");
        }
        end
    }

    async fn session(
        &mut self,
        channel: Channel,
        slot: &Slot,
        is_candidate: bool,
        stop: &CancellationToken,
    ) -> Result<End, End> {
        let closing = CancellationToken::new();
        let _closed = closing.clone().drop_guard();
        let welcomed = CancellationToken::new();
        let number = self.kernel.spool.begin();
        let outbound = outbound(self.kernel.clone(), number, welcomed.clone(), closing.clone());
        let mut client =
            HomeClient::new(channel.clone()).max_decoding_message_size(MAX_FRAME).max_encoding_message_size(MAX_FRAME);
        let opening = async {
            let mut inbound = client.session(outbound).await?.into_inner();
            let first = inbound.message().await?;
            Ok::<_, Status>((inbound, first))
        };
        let opened = unless(stop, timeout(WELCOME_LIMIT, opening)).await?;
        let (mut inbound, first) = opened.map_err(|_| End::Lost("home did not answer Hello".into()))?.map_err(ended)?;
        match first.and_then(|f| f.frame) {
            Some(Frame::Welcome(welcome)) => self.welcome(&welcome, is_candidate).await?,
            Some(Frame::Leave(leave)) => return Err(End::Left(leave)),
            _ => return Err(End::Lost("home answered Hello with something else than Welcome".into())),
        }
        welcomed.cancel();
        self.kernel.spool.wake();
        let mut renew_at = self.renewal(slot);
        let mut open = interval(HEAR);
        let mut transfers = std::pin::pin!(transfers::run(channel.clone(), self.kernel.blobs.clone()));
        loop {
            tokio::select! {
                never = &mut transfers => match never {},
                message = inbound.message() => self.heard(&mut inbound, message).await?,
                _ = open.tick() => self.is_open()?,
                () = sleep_until(renew_at) => match self.renew(channel.clone()).await {
                    Ok(end) => return Ok(end),
                    Err(End::Refused(refused)) => return Err(End::Refused(refused)),
                    Err(end) => {
                        tracing::warn!(?end, "the certificate could not be renewed; trying again");
                        let life = slot.leaf.not_after.saturating_sub(slot.leaf.not_before).unsigned_abs();
                        renew_at = Instant::now() + Duration::from_millis((life / 20).clamp(200, 300_000));
                    }
                },
                () = stop.cancelled() => {
                    closing.cancel();
                    // Home ends its side when it has read all that was said.
                    let _ = timeout(FAREWELL, async { while let Ok(Some(_)) = inbound.message().await {} }).await;
                    return Ok(End::Stopped);
                }
            }
        }
    }

    /// The stream is open still: an idle one brings no frames, and home is there all the same. After a sleep nobody knows.
    fn is_open(&self) -> Result<(), End> {
        if self.kernel.silence() > ASLEEP {
            return Err(End::Lost("this host slept; home may have given it up meanwhile".into()));
        }
        self.kernel.hear();
        Ok(())
    }

    async fn welcome(&mut self, welcome: &fleet::Welcome, is_candidate: bool) -> Result<(), End> {
        self.kernel.hear();
        self.kernel.learn_time(welcome.server_time_ms);
        // Beside the runtime: a slow disk must not keep it from answering home's first pings.
        let (kernel, token) = (self.kernel.clone(), welcome.session_token.clone());
        let kept = tokio::task::spawn_blocking(move || kernel.ledger.keep_token(token)).await;
        let kept = kept.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        self.kernel.observe_write(&kept);
        kept.map_err(|e| End::Lost(format!("the session token cannot be kept: {e}")))?;
        if is_candidate {
            self.keeper.promote().map_err(|e| End::Lost(format!("the new identity cannot be kept: {e:#}")))?;
        }
        self.kernel.set_revoked(false);
        (self.tries, self.hinted) = (self.tries.saturating_sub(1), Vec::new());
        let now = self.kernel.host.now_ms();
        self.report.send_modify(|report| {
            let home = std::mem::take(&mut report.home);
            let controller_version = welcome.controller_version.clone();
            *report = Report { connected: true, home, since_ms: now, controller_version, ..Report::default() };
        });
        tracing::info!(controller_version = %welcome.controller_version, "home is there");
        Ok(())
    }

    /// Takes what arrived, with whatever else is there already, so that a herd of assignments is one durable step.
    async fn heard(
        &self,
        inbound: &mut Streaming<fleet::FromHome>,
        mut message: Result<Option<fleet::FromHome>, Status>,
    ) -> Result<(), End> {
        if matches!(message, Ok(Some(_))) {
            self.kernel.hear();
        }
        let mut arrived: Vec<Assignment> = Vec::new();
        let end = loop {
            match message {
                Err(status) => break Err(ended(status)),
                Ok(None) => break Err(End::Lost("home ended the stream".into())),
                Ok(Some(fleet::FromHome { frame })) => match frame {
                    Some(Frame::Assign(assign)) => arrived.push(wire::assignment(assign)),
                    Some(Frame::Leave(leave)) => break Err(End::Left(leave)),
                    Some(frame) => self.take(frame),
                    None => tracing::warn!("home sent a frame this agent does not know"),
                },
            }
            match (arrived.len() < BATCH).then(|| inbound.message().now_or_never()).flatten() {
                Some(next) => message = next,
                None => break Ok(()),
            }
        };
        if !arrived.is_empty() {
            intake::take(&self.kernel, arrived).map_err(|e| End::Lost(format!("the ledger cannot be written: {e}")))?;
        }
        end
    }

    fn take(&self, frame: Frame) {
        match frame {
            Frame::Ack(ack) => self.kernel.acknowledge(ack.up_to),
            Frame::LogAck(ack) => match wire::log_key(&ack) {
                Some(log) => self.kernel.spool.acknowledge_log(&log, ack.up_to),
                None => tracing::warn!("home acknowledged a log of no stream"),
            },
            Frame::Answer(answer) => {
                let ask_id = answer.ask_id.clone();
                self.kernel.spool.answered(&ask_id, wire::answer(answer));
            }
            Frame::Ping(ping) => self.kernel.spool.pong(ping.nonce),
            Frame::Welcome(_) => tracing::warn!("home said Welcome twice"),
            Frame::Assign(_) | Frame::Leave(_) => unreachable!("taken where frames are read"),
        }
    }

    async fn renew(&self, channel: Channel) -> Result<End, End> {
        let home_ms = self.keeper.renew(channel).await.map_err(ended)?;
        self.kernel.learn_time(home_ms);
        tracing::info!("a new certificate is here; connecting with it");
        Ok(End::Renewed)
    }

    /// When to renew, on the monotonic clock, from home's time.
    fn renewal(&self, slot: &Slot) -> Instant {
        let left = identity::renew_at(&slot.leaf, chance()).saturating_sub(self.kernel.home_now_ms()).max(0);
        Instant::now() + Duration::from_millis(left.unsigned_abs()).max(RENEW_PAUSE)
    }

    fn addresses(&self) -> Vec<String> {
        let own = if self.homes.is_empty() { self.keeper.current().identity.homes } else { self.homes.clone() };
        let mut all = self.hinted.clone();
        all.extend(own.into_iter().filter(|home| !self.hinted.contains(home)));
        all
    }

    /// Draws the consequences of an end.
    fn judge(&mut self, end: &End) -> Ended {
        match end {
            End::Stopped => Ended::AtOnce,
            End::Renewed => {
                self.tries = 0;
                Ended::AtOnce
            }
            End::Lost(_) => Ended::Lost,
            End::Left(leave) => {
                (self.hinted, self.tries) = (leave.homes.clone(), 0);
                Ended::Told(millis(leave.retry_after_ms))
            }
            End::Refused(refused) => {
                if refused.server_time_ms > 0 {
                    self.kernel.learn_time(refused.server_time_ms);
                }
                self.consequence(refused)
            }
        }
    }

    fn consequence(&mut self, refused: &Refusal) -> Ended {
        match refused.reason() {
            Reason::Revoked => self.kernel.set_revoked(true),
            Reason::Expired if !self.renew_first => {
                self.renew_first = true;
                return Ended::Lost;
            }
            _ => {}
        }
        match refused.reason() {
            _ if refused.retry_after_ms > 0 => Ended::Told(millis(refused.retry_after_ms)),
            Reason::Superseded if self.keeper.candidate().is_some() => Ended::Lost,
            Reason::Busy | Reason::Leaving | Reason::NotYetValid | Reason::Expired | Reason::Unspecified => Ended::Lost,
            _ => Ended::Unwanted,
        }
    }

    fn tell(&self, end: &End, wait: Duration) {
        let why = match end {
            End::Stopped => "the agent is stopping".to_owned(),
            End::Renewed => "the certificate was renewed".to_owned(),
            End::Left(leave) => format!("home asked to leave: {}", leave.message),
            End::Refused(refused) => format!("{}: {}", refused.reason().as_str_name(), refused.message),
            End::Lost(why) => why.clone(),
        };
        let now = self.kernel.host.now_ms();
        tracing::info!(why, wait_ms = wait.as_millis() as u64, "the stream ended");
        self.report.send_modify(|report| {
            if report.connected || report.since_ms == 0 {
                report.since_ms = now;
            }
            report.connected = false;
            report.retry_at_ms = now + i64::try_from(wait.as_millis()).unwrap_or(i64::MAX / 2);
            report.last_error = why;
        });
    }
}

/// Hello, then after Welcome whatever the spool has to say, each frame made when there is room for it.
fn outbound(
    kernel: Arc<Kernel>,
    number: u64,
    welcomed: CancellationToken,
    closing: CancellationToken,
) -> impl Stream<Item = fleet::FromAgent> + Send + 'static {
    enum Next {
        Hello,
        Spool,
        Nothing,
    }
    unfold(Next::Hello, move |next| {
        let (kernel, welcomed, closing) = (kernel.clone(), welcomed.clone(), closing.clone());
        async move {
            match next {
                Next::Nothing => return None,
                Next::Hello => return Some((wire::hello(&kernel), Next::Spool)),
                Next::Spool => {}
            }
            tokio::select! {
                () = welcomed.cancelled() => {}
                () = closing.cancelled() => return None,
            }
            loop {
                if let Some(frame) = kernel.spool.next(number) {
                    return Some((wire::frame(frame), Next::Spool));
                }
                tokio::select! {
                    // What was said last comes before the farewell.
                    biased;
                    () = kernel.spool.filled() => {}
                    () = closing.cancelled() => return Some((wire::leave("the agent is stopping"), Next::Nothing)),
                }
            }
        }
    })
}

/// What a future comes to, unless the agent is to stop first.
async fn unless<T>(stop: &CancellationToken, future: impl Future<Output = T>) -> Result<T, End> {
    tokio::select! {
        done = future => Ok(done),
        () = stop.cancelled() => Err(End::Stopped),
    }
}

fn ended(status: Status) -> End {
    match refusal::from_status(&status) {
        Some(refused) => End::Refused(refused),
        None => End::Lost(format!("{}: {}", status.code(), dial::causes(&status))),
    }
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(ms.max(0).unsigned_abs())
}

/// A random number in 0..1.
fn chance() -> f64 {
    (u64::from_le_bytes(muster_pki::random()) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
