//! Calls to etcd: one connection to each of its members, and whichever answers is asked.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use prost::Message;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::Failure;
use super::wire::{Answer, Header, WatchRequest, WatchResponse};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Between two rounds of questions that nobody answered.
const PAUSE: Duration = Duration::from_millis(20);
/// etcd takes more than one sign of life in five seconds for an attack, and ends the connection.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// More than etcd stores under the keys that are asked for at once, as it comes: each value below 1.5 MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The members of one etcd.
pub(super) struct Client {
    links: Vec<Link>,
    /// Which is asked first: the one that answered last.
    current: AtomicUsize,
    /// Which etcd it is, by its own number; 0 before the first answer.
    cluster: AtomicU64,
    /// One member answers in this time, or another is asked.
    each: Duration,
}

struct Link {
    endpoint: String,
    channel: Channel,
}

/// An endpoint, as people write it.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    if !text.starts_with("http://") {
        return Err(format!("{text}: only http:// is known so far"));
    }
    Endpoint::from_shared(text.to_owned()).map_err(|e| format!("{text}: {e}"))
}

/// What may be asked.
pub(super) trait Ask: Message + Clone + 'static {
    /// What comes back.
    type Answer: Answer;
    /// Where.
    const PATH: &str;
}

macro_rules! asks {
    ($($request:ident => $answer:ident at $path:ident;)*) => {
        $(impl Ask for super::wire::$request {
            type Answer = super::wire::$answer;
            const PATH: &str = $path;
        })*
    };
}

asks! {
    RangeRequest => RangeResponse at RANGE;
    PutRequest => PutResponse at PUT;
    TxnRequest => TxnResponse at TXN;
}

impl Client {
    /// Connects when it is first asked.
    ///
    /// # Errors
    /// For people: an endpoint that is none.
    pub(super) fn new(endpoints: &[String], each: Duration) -> Result<Client, String> {
        let link = |text: &String| {
            let endpoint = endpoint(text)?
                .connect_timeout(each)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(ALIVE_EVERY)
                .keep_alive_timeout(each);
            Ok(Link { endpoint: text.clone(), channel: endpoint.connect_lazy() })
        };
        let links = endpoints.iter().map(link).collect::<Result<Vec<Link>, String>>()?;
        assert!(!links.is_empty(), "settings are checked before");
        Ok(Client { links, current: AtomicUsize::new(0), cluster: AtomicU64::new(0), each })
    }

    /// Which member is asked first.
    pub(super) fn endpoint(&self) -> &str {
        &self.links[self.current()].endpoint
    }

    /// Asks one member after the other. What got no answer may have arrived, and may have been done.
    pub(super) async fn ask<Q: Ask>(&self, request: &Q, until: Instant) -> Result<Q::Answer, Failure> {
        let mut round = 0;
        loop {
            let current = self.current();
            let link = &self.links[current];
            let deadline = until.min(Instant::now() + self.each);
            let said = match timeout_at(deadline, link.call(request)).await {
                Ok(Ok(answer)) => {
                    self.known(link, answer.header())?;
                    return Ok(answer);
                }
                Ok(Err(status)) => words(&status),
                Err(_) => "it does not answer in time".into(),
            };
            self.leave(current);
            round += 1;
            if Instant::now() >= until {
                return Err(Failure::Silent(format!("{}: {said}", link.endpoint)));
            }
            if round % self.links.len() == 0 {
                tokio::time::sleep_until(until.min(Instant::now() + PAUSE)).await;
            }
        }
    }

    /// Opens a watch at the member that is asked first. It ends when that member has lost the others.
    pub(super) async fn watch(&self, request: WatchRequest) -> Result<Watching<'_>, Failure> {
        let current = self.current();
        let link = &self.links[current];
        match timeout(self.each, link.watch(request)).await {
            Ok(Ok(stream)) => Ok(Watching { client: self, current, stream }),
            Ok(Err(status)) => Err(self.lost(current, &words(&status))),
            Err(_) => Err(self.lost(current, "it opens no watch in time")),
        }
    }

    fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Asks another first, unless somebody else has changed that already.
    fn leave(&self, current: usize) {
        let next = (current + 1) % self.links.len();
        let _ = self.current.compare_exchange(current, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn lost(&self, current: usize, said: &str) -> Failure {
        self.leave(current);
        Failure::Silent(format!("{}: {said}", self.links[current].endpoint))
    }

    /// All answers are of the same etcd: two of them would each decide an order of their own.
    fn known(&self, link: &Link, header: Option<&Header>) -> Result<(), Failure> {
        let endpoint = &link.endpoint;
        let header = header.ok_or_else(|| {
            Failure::Broken(format!("{endpoint} answers without saying which etcd it belongs to"))
        })?;
        let before =
            self.cluster.compare_exchange(0, header.cluster_id, Ordering::Relaxed, Ordering::Relaxed);
        match before {
            Err(before) if before != header.cluster_id => Err(Failure::Broken(format!(
                "{endpoint} belongs to the etcd cluster {:x}, and another endpoint to {before:x}",
                header.cluster_id
            ))),
            _ => Ok(()),
        }
    }
}

impl Link {
    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    async fn call<Q: Ask>(&self, request: &Q) -> Result<Q::Answer, Status> {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let codec = ProstCodec::<Q, Q::Answer>::default();
        let answer = grpc.unary(Request::new(request.clone()), PathAndQuery::from_static(Q::PATH), codec);
        Ok(answer.await?.into_inner())
    }

    async fn watch(&self, request: WatchRequest) -> Result<Streaming<WatchResponse>, Status> {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        // The watch lasts as long as we might still say something.
        let requests = stream::once(std::future::ready(request)).chain(stream::pending());
        let mut requests = Request::new(requests);
        requests.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let answer = grpc.streaming(requests, PathAndQuery::from_static(WATCH), codec);
        Ok(answer.await?.into_inner())
    }
}

/// A watch at one member.
pub(super) struct Watching<'a> {
    client: &'a Client,
    current: usize,
    stream: Streaming<WatchResponse>,
}

impl Watching<'_> {
    /// What comes next. Waits for ever if nothing does.
    pub(super) async fn next(&mut self) -> Result<WatchResponse, Failure> {
        let answer = match self.stream.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(self.client.lost(self.current, "its watch has ended")),
            Err(status) => return Err(self.client.lost(self.current, &words(&status))),
        };
        self.client.known(&self.client.links[self.current], answer.header())?;
        if answer.compact_revision != 0 {
            // The member is well; only the past is gone.
            let revision = answer.compact_revision;
            return Err(Failure::Silent(format!("the revisions before {revision} were compacted")));
        }
        if answer.canceled {
            return Err(self.client.lost(self.current, &answer.cancel_reason));
        }
        Ok(answer)
    }

    /// The member says nothing although there is something: another is asked first from now on.
    pub(super) fn leave(&self) {
        self.client.leave(self.current);
    }
}

/// What a member says of a call that came to nothing.
fn words(status: &Status) -> String {
    format!("{} ({:?})", status.message(), status.code())
}
