//! Machines that are no members yet: each shows its token, and is told how to be one.
//!
//! ```text
//!   datagram ─► engine (recognised by its first bytes) ─► a few places ─► here ─► Join ─► coordinator
//!                                                                          └─► answer, never longer than the question
//! ```
//!
//! In the order of what it costs: a count, the token's hash found by its first bytes, a code over the question, and only then a
//! handshake. Nothing is kept of whoever asks: a member that asks again, with the same token and the same key, is told the same again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oarlock_cluster::registry::{Command, Outcome, Refusal, Registry, TokenHash};
use oarlock_layout::code::Code;
use oarlock_layout::codec::Wire;
use oarlock_layout::id::{Incarnation, NodeId};
use oarlock_layout::message::frame;
use oarlock_layout::message::join::{Knock, PART_BYTES_MAX, Request, Unreadable, Welcome, encode_answer};
use oarlock_layout::seal::{Arrival, MAC_BYTES, MacKey, PublicKey, Seal, same_code};
use tokio::sync::Semaphore;
use tracing::info;
use xxhash_rust::xxh3::xxh3_64;

use super::{Console, registry};
use crate::config::membership;
use crate::engine::{Control, Snapshot};
use crate::host::key::Secret;
use crate::host::keychain::OwnKeys;
use crate::host::seal::HostSeal;
use crate::host::{clock, token};

/// Questions that are read in one second, whoever asks: people make tokens one by one, and the rest is dropped.
const PER_SECOND: u32 = 20;
/// The log is told of one of those who are turned away in so many seconds.
const TOLD_EVERY: u64 = 5;
/// Questions under way at a time. Each may wait for a decision of the cluster.
const AT_ONCE: usize = 8;

/// How many questions came.
#[derive(Default)]
struct Count {
    /// Which second it is, and how many came in it: those that name a token that is known, and the rest.
    second: u64,
    came: [u32; 2],
    /// When the log was last told of somebody who was turned away.
    told: u64,
    /// The tokens are known from here. Read anew for questions of the rest.
    registry: Option<Arc<Registry>>,
}

/// The secrets with which questions are read and answered.
pub(crate) struct Greeter {
    own: OwnKeys,
    secret: Secret,
    count: Mutex<Count>,
    places: Arc<Semaphore>,
}

impl Greeter {
    /// With this node's private keys and the cluster's secret.
    pub(crate) fn new(own: OwnKeys, secret: Secret) -> Greeter {
        Greeter { own, secret, count: Mutex::default(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The cluster's secret.
    pub(super) const fn secret(&self) -> &Secret {
        &self.secret
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a question is to be read. Those that name no known token have a count of their own, so that whoever makes them up
    /// does not keep others out. Each that is read brings the newest tokens; so a token of this very moment is known soon as well.
    fn admits(&self, now: u64, datagram: &[u8]) -> bool {
        let mut count = self.count();
        if count.second != now {
            (count.second, count.came) = (now, [0; 2]);
        }
        let names_one = |registry: &Arc<Registry>| {
            let knock = Knock::decode(datagram).ok();
            knock.is_some_and(|it| registry.cluster() == Some(it.cluster) && shown(registry, &it).is_some())
        };
        let known = count.registry.as_ref().is_some_and(names_one);
        let came = &mut count.came[usize::from(known)];
        *came += 1;
        *came <= PER_SECOND
    }

    /// Whether the log is to be told of somebody who is turned away.
    fn tells(&self, now: u64) -> bool {
        let mut count = self.count();
        let due = now.abs_diff(count.told) >= TOLD_EVERY;
        if due {
            count.told = now;
        }
        due
    }
}

/// Why a question is not answered with a handshake.
#[derive(Debug, PartialEq, Eq)]
enum No {
    /// Nothing is said: the bytes are nobody's question, or this node cannot say anything.
    Silence,
    /// This is said in clear.
    Code(u32, Code),
}

/// A question that was made with a token of this cluster, by whoever has that key.
struct Asked {
    sender: u32,
    hash: TokenHash,
    request: Request,
    arrival: Arrival,
}

impl Console {
    /// Answers a question of a machine that is no member.
    pub(super) async fn knock(&self, from: SocketAddr, datagram: &[u8]) {
        let greeter = &self.greeter;
        if !greeter.admits(clock::wall_seconds(), datagram) {
            return;
        }
        let Ok(_place) = greeter.places.try_acquire() else { return };
        let Ok(snapshot) = self.snapshot().await else { return };
        let Some(known) = &snapshot.registry else { return };
        greeter.count().registry = Some(Arc::clone(known));
        let bytes = match read(&greeter.own, known, datagram) {
            Ok(asked) => {
                let Asked { sender, hash, request, mut arrival } = asked;
                let name = request.name.clone();
                let welcome = self.admit(known, from, hash, request, arrival.key).await;
                if let Welcome::Refused { code, text } = &welcome {
                    info!("{name} at {from} is not let in: OAR-{code:04} {text}");
                }
                encode_answer(sender, |out| _ = arrival.response.accept(&welcome.to_bytes(), out))
            }
            Err(No::Silence) => return,
            Err(No::Code(sender, code)) => {
                if greeter.tells(clock::wall_seconds()) {
                    info!("somebody at {from} is not let in ({code})");
                }
                let mut bytes = Vec::new();
                frame::encode_refusal(&mut bytes, sender, code, snapshot.status.me);
                // Whoever knows no secret of the cluster cannot check a proof.
                bytes.extend_from_slice(&[0; MAC_BYTES]);
                bytes
            }
        };
        assert!(bytes.len() <= datagram.len(), "an answer amplifies nothing");
        self.link.send(Control::Transmit { to: from, bytes });
    }

    /// Makes a node a member, if it is to be one and is none yet, and says what it must know.
    async fn admit(
        &self,
        known: &Arc<Registry>,
        from: SocketAddr,
        hash: TokenHash,
        request: Request,
        key: PublicKey,
    ) -> Welcome {
        let Request { name, address, offset, .. } = request;
        let is_it = |registry: &Registry| {
            let member =
                registry.members().find(|it| it.name == name && it.token == Some(hash) && it.key == key);
            member.map(|it| (it.node, it.entered))
        };
        let (registry, (node, above)) = match is_it(known) {
            Some(member) => (Arc::clone(known), member),
            None => {
                let command = Command::Join {
                    cluster: known.cluster().expect("a token was found"),
                    hash,
                    name: name.clone(),
                    address,
                    key,
                    wall: clock::wall_seconds(),
                };
                let text =
                    format!("{name} at {from} has shown a token and asks to be a member, at {address}");
                match self.propose(&command, &text).await {
                    Ok((Outcome::Joined { node, above, .. }, registry, _)) => (registry, (node, above)),
                    Ok((Outcome::Refused(why), ..)) => return refused(code_of(&why), &why.to_string()),
                    Ok((outcome, ..)) => return refused(Code::Failed, &format!("{outcome:?}")),
                    Err((code, text)) => return refused(code, &text),
                }
            }
        };
        let whole = membership::welcome(&self.config, &registry, node, &self.greeter.secret);
        part(node, above, whole.as_bytes(), offset)
    }
}

fn refused(code: Code, text: &str) -> Welcome {
    Welcome::Refused { code: code.number(), text: text.into() }
}

fn part(node: NodeId, above: Incarnation, whole: &[u8], offset: u32) -> Welcome {
    let rest = whole.get(offset as usize..).unwrap_or_default();
    Welcome::Part {
        node,
        above,
        hash: xxh3_64(whole),
        total: whole.len() as u32,
        bytes: rest[..rest.len().min(PART_BYTES_MAX)].to_vec(),
    }
}

/// The code of a refusal that a node which wants to join can meet.
fn code_of(why: &Refusal) -> Code {
    match why {
        Refusal::NoSuchToken => Code::TokenUnknown,
        Refusal::TokenForOther => Code::TokenForOther,
        Refusal::TokenExpired { .. } | Refusal::TokenEarly { .. } => Code::TokenExpired,
        Refusal::NameTaken => Code::NameTaken,
        Refusal::OtherCluster => Code::OtherCluster,
        _ => Code::ChangeRefused,
    }
}

/// The token that a question names: one that is out, or the one with which a member came, that has not heard its answer.
fn shown<'a>(registry: &'a Registry, knock: &Knock<'_>) -> Option<(TokenHash, &'a str)> {
    let out = registry.tokens().map(|it| (it.hash, it.name.as_str()));
    let used = registry.members().filter_map(|it| Some((it.token?, it.name.as_str())));
    out.chain(used).find(|(hash, _)| token::id(hash) == knock.token)
}

/// Reads a question as far as the registry knows its token.
fn read(own: &OwnKeys, registry: &Registry, datagram: &[u8]) -> Result<Asked, No> {
    let knock = match Knock::decode(datagram) {
        Ok(knock) => knock,
        Err(Unreadable::Version { sender, .. }) => return Err(No::Code(sender, Code::PeerVersion)),
        Err(Unreadable::Malformed(_)) => return Err(No::Silence),
    };
    let no = |code| No::Code(knock.sender, code);
    let cluster = registry.cluster().ok_or(No::Silence)?;
    if knock.cluster != cluster {
        return Err(no(Code::OtherCluster));
    }
    let (hash, name) = shown(registry, &knock).ok_or_else(|| no(Code::TokenUnknown))?;
    let mut seal = HostSeal::changing(own.clone(), token::shared(&hash));
    if !same_code(&seal.mac(MacKey::Cluster, &[knock.signed]), knock.proof) {
        return Err(no(Code::TokenUnknown));
    }
    // Made for another key: the member that made the token had this address before, or has changed its key since.
    let arrival = seal.respond(&token::prologue(&cluster), knock.handshake).map_err(|_| no(Code::PeerKey))?;
    let request = Request::from_bytes(&arrival.payload).map_err(|_| No::Silence)?;
    // Whoever read the hash somewhere gets so far. The token itself he does not know.
    if token::hash(&request.token, &cluster, name) != hash {
        return Err(no(Code::TokenUnknown));
    }
    Ok(Asked { sender: knock.sender, hash, request, arrival })
}

/// The registry, of a snapshot in which it must be known.
pub(super) fn registry_of(snapshot: &Snapshot) -> Result<Arc<Registry>, (Code, String)> {
    registry::known(snapshot)?;
    Ok(Arc::clone(snapshot.registry.as_ref().expect("it is known")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::token::Token;
    use oarlock_cluster::registry::{Founder, SpaceSettings};
    use oarlock_layout::id::Epoch;
    use oarlock_layout::message::join::{JOIN_BYTES, encode_question, is_question};
    use oarlock_layout::seal::Initiation;

    const CLUSTER: [u8; 16] = [7; 16];

    /// A cluster of one member, with a token for `node-d`.
    fn founded(member: &Secret) -> (Registry, Token) {
        let address: SocketAddr = "10.0.0.11:7401".parse().unwrap();
        let key = PublicKey(member.public());
        let founder = Founder { name: "node-a".into(), address, key };
        let settings = SpaceSettings {
            order: oarlock_cluster::registry::Order::Passover,
            value: 64,
            retain: true,
            resources_max: 9,
            owner: 0,
            group: 0,
            mode: 0o660,
        };
        let space = oarlock_cluster::registry::FirstSpace { name: "default".into(), settings };
        let (members, spaces) = (vec![founder], vec![space]);
        let mut registry = Registry::new();
        registry.apply(&Command::Init { cluster: CLUSTER, members, spaces, above: Epoch(0) });
        let token = Token::generate(CLUSTER, "node-d", address, key);
        let (hash, name) = (token.hash(), token.name.clone());
        registry.apply(&Command::CreateToken { serial: 1, hash, name, wall: 100, expires: 200 });
        (registry, token)
    }

    fn question(mine: &Secret, token: &Token, shared: [u8; 32]) -> (Vec<u8>, Box<dyn Initiation + Send>) {
        let request = Request {
            token: token.secret,
            name: token.name.clone(),
            address: "10.0.0.14:7401".parse().unwrap(),
            offset: 0,
        };
        let mut seal = HostSeal::new(mine.bytes(), shared);
        let mut handshake = Vec::new();
        let prologue = token::prologue(&token.cluster);
        let waiting = seal.initiate(&token.key, &prologue, &request.to_bytes(), &mut handshake);
        let mut bytes = encode_question(5, token::id(&token.hash()), token.cluster, &handshake);
        let proof = seal.mac(MacKey::Cluster, &[&bytes]);
        bytes.extend_from_slice(&proof);
        assert!(is_question(&bytes));
        (bytes, waiting)
    }

    fn shared(token: &Token) -> [u8; 32] {
        token::shared(&token.hash())
    }

    #[test]
    fn whoever_has_the_token_is_heard_and_answered() {
        let (member, mine) = (Secret::generate(), Secret::generate());
        let (registry, token) = founded(&member);
        let (bytes, mut waiting) = question(&mine, &token, shared(&token));
        let mut asked = read(&OwnKeys::new(member.bytes()), &registry, &bytes).expect("it is let in");
        assert_eq!((asked.arrival.key, asked.hash), (PublicKey(mine.public()), token.hash()));
        assert_eq!((asked.sender, asked.request.name.as_str()), (5, "node-d"));
        let welcome = part(NodeId(3), Incarnation(4), &[1; 5000], 4500);
        let answer =
            encode_answer(asked.sender, |out| _ = asked.arrival.response.accept(&welcome.to_bytes(), out));
        assert!(answer.len() <= JOIN_BYTES);
        let (payload, _) = waiting.finish(&answer[8..]).expect("it is from the member");
        let Welcome::Part { total: 5000, bytes, .. } = Welcome::from_bytes(&payload).unwrap() else {
            panic!("not a part")
        };
        assert_eq!(bytes.len(), 500);
        assert!(
            matches!(part(NodeId(0), Incarnation(0), &[1; 9], u32::MAX), Welcome::Part { bytes, .. } if bytes.is_empty())
        );
    }

    /// Each is named as far as that gives nothing away, and nobody is answered in a handshake without the token.
    #[test]
    fn whoever_has_not_is_refused() {
        let (member, mine) = (Secret::generate(), Secret::generate());
        let (mut registry, token) = founded(&member);
        let own = OwnKeys::new(member.bytes());
        let refusal = |registry: &Registry, bytes: &[u8]| read(&own, registry, bytes).err();
        let code = |code| Some(No::Code(5, code));
        let (good, _) = question(&mine, &token, shared(&token));

        let unknown = Token::generate(CLUSTER, "node-d", token.address, token.key);
        let (bytes, _) = question(&mine, &unknown, shared(&unknown));
        assert_eq!(refusal(&registry, &bytes), code(Code::TokenUnknown));
        // The right name of a token, without the key that follows from it.
        let (bytes, _) = question(&mine, &token, [3; 32]);
        assert_eq!(refusal(&registry, &bytes), code(Code::TokenUnknown));
        // Read in a log: the hash, and so the key; but not the token.
        let leaked = Token { secret: [0; 16], ..token.clone() };
        let mut seal = HostSeal::new(mine.bytes(), shared(&token));
        let (mut handshake, prologue) = (Vec::new(), token::prologue(&CLUSTER));
        let request = Request {
            token: leaked.secret,
            name: "node-d".into(),
            address: "10.0.0.14:7401".parse().unwrap(),
            offset: 0,
        };
        seal.initiate(&token.key, &prologue, &request.to_bytes(), &mut handshake);
        let mut bytes = encode_question(5, token::id(&token.hash()), CLUSTER, &handshake);
        let proof = seal.mac(MacKey::Cluster, &[&bytes]);
        bytes.extend_from_slice(&proof);
        assert_eq!(refusal(&registry, &bytes), code(Code::TokenUnknown));

        let elsewhere = Token { cluster: [8; 16], ..token.clone() };
        let (bytes, _) = question(&mine, &elsewhere, shared(&elsewhere));
        assert_eq!(refusal(&registry, &bytes), code(Code::OtherCluster));
        let other_key = Token { key: PublicKey(Secret::generate().public()), ..token.clone() };
        let (bytes, _) = question(&mine, &other_key, shared(&token));
        assert_eq!(refusal(&registry, &bytes), code(Code::PeerKey));
        let mut version = good.clone();
        version[2] += 1;
        assert_eq!(refusal(&registry, &version), code(Code::PeerVersion));
        for at in [8, 40, 60, JOIN_BYTES - 1] {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(refusal(&registry, &changed).is_some(), "byte {at}");
        }
        assert_eq!(refusal(&Registry::new(), &good), Some(No::Silence), "before there is a cluster");

        // Used: only the member that used it is known by it, and its key is looked at where it is answered.
        let key = PublicKey(mine.public());
        let (hash, name, address) = (token.hash(), "node-d".to_owned(), token.address);
        registry.apply(&Command::Join { cluster: CLUSTER, hash, name, address, key, wall: 150 });
        assert!(refusal(&registry, &good).is_none());
        registry
            .apply(&Command::Leave { node: NodeId(1), seen: registry.member(NodeId(1)).unwrap().revision });
        assert_eq!(refusal(&registry, &good), code(Code::TokenUnknown));
    }

    #[test]
    fn a_flood_of_questions_is_cut_off_until_the_next_second() {
        let greeter = Greeter::new(OwnKeys::new(Secret::generate().bytes()), Secret::generate());
        let member = Secret::generate();
        let (registry, token) = founded(&member);
        greeter.count().registry = Some(Arc::new(registry));
        let (good, _) = question(&Secret::generate(), &token, shared(&token));
        let unknown = Token::generate(CLUSTER, "node-d", token.address, token.key);
        let (unknown, _) = question(&Secret::generate(), &unknown, shared(&unknown));
        let mut elsewhere = good.clone();
        elsewhere[20] ^= 1;
        let mut version = good.clone();
        version[2] += 1;
        for (now, strange) in (10..).zip([&unknown, &elsewhere, &version, &vec![0; 9]]) {
            assert_eq!((0..100).filter(|_| greeter.admits(now, strange)).count(), PER_SECOND as usize);
            // Whoever shows a token is heard beside them, and not more often either.
            assert_eq!((0..100).filter(|_| greeter.admits(now, &good)).count(), PER_SECOND as usize);
            assert!(greeter.admits(now + 100, strange));
        }
        assert_eq!((10..20).filter(|now| greeter.tells(*now)).count(), 2, "the log is told now and then");
    }
}
