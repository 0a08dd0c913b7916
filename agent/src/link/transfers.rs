//! Blobs to and from home, as calls of their own beside the stream: one each way at a time, so that they leave room for
//! what the stream has to say. What breaks goes on at its offset, with the next try or on the next stream.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use muster_proto::{
    BLOB_PIECE, MAX_CHUNK,
    fleet::{Chunk, FetchRequest, StoreResponse, blobs_client::BlobsClient},
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Channel};

use super::chance;
use crate::blobs::{Blobs, Outgoing, Reading};

/// Home lets a transfer wait a minute for its turn.
const STALL: Duration = Duration::from_secs(90);

/// Between tries: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why a transfer did not come to its end.
#[derive(Debug)]
enum Fault {
    /// Another try may go on with it.
    Later(String),
    /// Home cannot at this time, and will do no better with the next one.
    Away(String),
    /// No other try will help.
    ForGood(String),
}

/// Carries blobs for as long as it is polled.
pub async fn run(channel: Channel, blobs: Arc<Blobs>) -> Infallible {
    let client = BlobsClient::new(channel).max_decoding_message_size(MAX_CHUNK).max_encoding_message_size(MAX_CHUNK);
    let client = &client;
    let fetching = rounds(|| fetch_all(client, &blobs), || blobs.wanted());
    let storing = rounds(|| store_all(client, &blobs), || blobs.brought());
    tokio::join!(fetching, storing).0
}

/// Runs rounds: one whenever there may be something to do, and again after a pause if something was left.
async fn rounds<R, W>(round: impl Fn() -> R, more: impl Fn() -> W) -> Infallible
where
    R: Future<Output = Left>,
    W: Future<Output = ()>,
{
    let mut pause = PAUSE.0;
    loop {
        let left = round().await;
        pause = if left.moved { PAUSE.0 } else { pause };
        tokio::select! {
            () = more() => {}
            () = sleep(pause.mul_f64(0.5 + chance() / 2.0)), if left.some => pause = (2 * pause).min(PAUSE.1),
        }
    }
}

/// What a round left behind.
#[derive(Debug, Default)]
struct Left {
    /// Something is to be tried again.
    some: bool,
    /// Something came to its end.
    moved: bool,
}

impl Left {
    fn note(&mut self, digest: &str, outcome: &Result<(), Fault>) {
        match outcome {
            Err(Fault::Later(why) | Fault::Away(why)) => {
                tracing::debug!(digest, why, "a blob waits for another try");
                self.some = true;
            }
            Ok(()) | Err(Fault::ForGood(_)) => self.moved = true,
        }
    }
}

// === from home ===

async fn fetch_all(client: &BlobsClient<Channel>, blobs: &Blobs) -> Left {
    let mut left = Left::default();
    for (digest, size) in blobs.to_fetch() {
        let fetched = fetch(client, blobs, &digest, size).await;
        left.note(&digest, &fetched);
        match fetched {
            Ok(()) => blobs.conclude(&digest, Ok(())),
            Err(Fault::ForGood(why)) => blobs.conclude(&digest, Err(why)),
            Err(Fault::Later(_)) => {}
            Err(Fault::Away(_)) => break,
        }
    }
    left
}

async fn fetch(client: &BlobsClient<Channel>, blobs: &Blobs, digest: &str, size: u64) -> Result<(), Fault> {
    let kept = |e: std::io::Error| Fault::ForGood(format!("the blob {digest} cannot be kept: {e}"));
    let Some(mut arriving) = blobs.arriving(digest, size).await.map_err(kept)? else { return Ok(()) };
    let began_anew = arriving.there() == 0;
    let request = FetchRequest { digest: muster_pki::unhex(digest).into(), offset: arriving.there() };
    let mut inbound = client.clone().fetch(request).await.map_err(fault)?.into_inner();
    loop {
        let next = timeout(STALL, inbound.message()).await;
        let next = next.map_err(|_| Fault::Away("nothing came".into()))?.map_err(fault)?;
        let Some(chunk) = next else { break };
        if chunk.size > 0 && chunk.size != size {
            return Err(Fault::ForGood(format!("the blob {digest} has {} bytes, not {size}", chunk.size)));
        }
        if chunk.offset != arriving.there() {
            return Err(Fault::Later("home sent another part than was asked for".into()));
        }
        arriving.append(chunk.data).await.map_err(kept)?;
    }
    if !arriving.is_whole() {
        return Err(Fault::Later("home ended early".into()));
    }
    match arriving.finish().await.map_err(kept)? {
        true => Ok(()),
        false if began_anew => Err(Fault::ForGood(format!("what home sent is not the blob {digest}"))),
        false => Err(Fault::Later("what there was of it is not part of it; it begins anew".into())),
    }
}

// === to home ===

async fn store_all(client: &BlobsClient<Channel>, blobs: &Blobs) -> Left {
    let mut left = Left::default();
    for out in blobs.to_bring() {
        let stored = store(client, &out).await;
        left.note(&out.digest, &stored);
        match stored {
            Ok(()) => blobs.is_home(&out),
            Err(Fault::ForGood(why)) => {
                let key = &out.key;
                tracing::warn!(kind = key.kind, id = key.id, digest = out.digest, why, "a blob is given up");
                blobs.is_home(&out);
            }
            Err(Fault::Later(_)) => {}
            Err(Fault::Away(_)) => break,
        }
    }
    left
}

async fn store(client: &BlobsClient<Channel>, out: &Outgoing) -> Result<(), Fault> {
    let reading = out.read().map_err(|e| Fault::ForGood(format!("it cannot be read: {e}")))?;
    let stored = async {
        // What fits into a chunk is sent without asking what is there.
        if out.size <= BLOB_PIECE as u64 {
            match send(client, out, &reading, 0).await {
                Err(status) if status.code() == Code::FailedPrecondition => {}
                sent => return sent,
            }
        }
        let there = client.clone().store(stream::iter([head(out)])).await?.into_inner();
        if there.complete { Ok(there) } else { send(client, out, &reading, there.size).await }
    };
    match stored.await {
        Ok(answer) if answer.complete => Ok(()),
        Ok(answer) => Err(Fault::Later(format!("home has {} of {} bytes", answer.size, out.size))),
        // Either what home had of it was bad, and is gone, or this file is.
        Err(status) if status.code() == Code::DataLoss => match reading.digest().await {
            Ok(digest) if digest == out.digest => Err(Fault::Later(status.message().to_owned())),
            Ok(_) => Err(Fault::ForGood("its file holds other bytes".into())),
            Err(e) => Err(Fault::ForGood(format!("it cannot be read: {e}"))),
        },
        Err(status) => Err(fault(status)),
    }
}

/// Sends all that lies behind an offset.
async fn send(
    client: &BlobsClient<Channel>,
    out: &Outgoing,
    reading: &Reading,
    from: u64,
) -> Result<StoreResponse, Status> {
    let chunks = stream::iter([head(out)]).chain(pieces(reading.clone(), from));
    let answer = client.clone().store(chunks).await?;
    Ok(answer.into_inner())
}

/// The first chunk, without data.
fn head(out: &Outgoing) -> Chunk {
    let digest = muster_pki::unhex(&out.digest).into();
    let (kind, id) = (out.key.kind.clone(), out.key.id.clone());
    Chunk { digest, kind, id, size: out.size, ..Chunk::default() }
}

/// The bytes from an offset on, each read when there is room for it. What cannot be read ends them early.
fn pieces(reading: Reading, from: u64) -> impl Stream<Item = Chunk> + Send + 'static {
    stream::unfold(from, move |offset| {
        let reading = reading.clone();
        async move {
            let data: Bytes = reading.piece(offset).await.ok().filter(|data| !data.is_empty())?;
            let next = offset + data.len() as u64;
            Some((Chunk { offset, data, ..Chunk::default() }, next))
        }
    })
}

fn fault(status: Status) -> Fault {
    let why = status.message().to_owned();
    match status.code() {
        Code::NotFound | Code::PermissionDenied | Code::InvalidArgument | Code::DataLoss => Fault::ForGood(why),
        Code::FailedPrecondition => Fault::Later(why),
        code => Fault::Away(format!("{code}: {why}")),
    }
}
