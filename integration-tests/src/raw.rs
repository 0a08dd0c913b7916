//! A client that says what no agent says: frames as bytes, over the TLS of a real identity or of none.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use futures::StreamExt;
use muster_agent::{dial, identity::Identity};
use muster_proto::fleet::{FromAgent, FromHome, Hello, Welcome, from_agent, from_home};
use prost::Message;
use rustls::ClientConfig;
use tokio::{sync::mpsc, time::timeout};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// Home answers, or refuses, within this time.
const LIMIT: Duration = Duration::from_secs(15);

/// A stream that says anything.
pub struct Raw {
    say: mpsc::Sender<Bytes>,
    inbound: Streaming<FromHome>,
}

/// Bytes out as they are, frames in.
#[derive(Debug, Clone, Copy, Default)]
struct Plain;

// === impl Raw ===

impl Raw {
    /// A stream that has said these frames; home may refuse it for them.
    pub async fn open(channel: Channel, first: Vec<Bytes>) -> Result<Self, Status> {
        let (say, mut said) = mpsc::channel(64);
        for bytes in first {
            say.try_send(bytes).expect("room for a few frames");
        }
        let outbound = futures::stream::poll_fn(move |cx| said.poll_recv(cx));
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
        let path = "/muster.fleet.v1.Home/Session".parse().expect("a path");
        let opened = timeout(LIMIT, grpc.streaming(Request::new(outbound), path, Plain)).await;
        Ok(Self { say, inbound: opened.expect("home answers or refuses")?.into_inner() })
    }

    /// A stream that has said Hello and was welcomed.
    pub async fn welcomed(channel: Channel, hello: Hello) -> Result<(Self, Welcome), Status> {
        let mut raw = Self::open(channel, vec![encoded(from_agent::Frame::Hello(hello))]).await?;
        match raw.hear().await? {
            Some(from_home::Frame::Welcome(welcome)) => Ok((raw, welcome)),
            other => panic!("not a Welcome: {other:?}"),
        }
    }

    /// Says a frame.
    pub async fn say(&self, frame: from_agent::Frame) {
        self.say_bytes(encoded(frame)).await;
    }

    /// Says anything. Home may have ended the stream, which is then heard.
    pub async fn say_bytes(&self, bytes: Bytes) {
        let _ = self.say.send(bytes).await;
    }

    /// The next frame; none at the end of the stream.
    pub async fn hear(&mut self) -> Result<Option<from_home::Frame>, Status> {
        let next = timeout(LIMIT, self.inbound.next()).await.expect("home says something or ends the stream");
        Ok(next.transpose()?.and_then(|said| said.frame))
    }

    /// Hears until the stream ends; how it ended.
    pub async fn end(&mut self) -> Result<(), Status> {
        while self.hear().await?.is_some() {}
        Ok(())
    }
}

/// A frame as it travels.
pub fn encoded(frame: from_agent::Frame) -> Bytes {
    FromAgent { frame: Some(frame) }.encode_to_vec().into()
}

/// A connection to home with the identity of a state folder.
pub async fn channel(home: &str, state: &Path) -> Channel {
    let identity = Identity::load(state).expect("read").expect("enrolled");
    connect(home, identity.tls().expect("usable")).await
}

/// A connection to home that shows no certificate.
pub async fn stranger(home: &str, state: &Path) -> Channel {
    let identity = Identity::load(state).expect("read").expect("enrolled");
    let roots = identity.roots.iter().map(|hex| muster_pki::unhex(hex).into()).collect();
    let tls = muster_pki::tls::client(&muster_pki::tls::Trust::Roots(roots), None);
    connect(home, tls.expect("usable")).await
}

async fn connect(home: &str, tls: ClientConfig) -> Channel {
    dial::channel(home, Arc::new(tls)).await.expect("home is there")
}

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = FromHome;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = FromHome;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<FromHome>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        FromHome::decode(bytes).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}
