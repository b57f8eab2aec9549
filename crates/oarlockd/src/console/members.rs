//! Who may become a member, and who is to be none any more.

use std::sync::Arc;
use std::time::Duration;

use oarlock_cluster::registry::{Command, Need, Outcome, Registry, Role, TOKEN_SECONDS_MAX, Token as Kept};
use oarlock_layout::code::Code;
use oarlock_layout::id::{NodeId, SessionId};
use oarlock_layout::limit::LABEL_BYTES_MAX;
use oarlock_layout::seal::PublicKey;
use oarlock_node::MemberStatus;

use super::change::{decidable, member};
use super::joining::registry_of;
use super::{Console, doc};
use crate::engine::{Control, Snapshot};
use crate::host::clock;
use crate::host::token::Token;

type Answer<T> = Result<T, (Code, String)>;

/// Somebody else may make a token at the same time; then this one gets the next number.
const TRIES: u32 = 5;
/// A node that is to leave is given this time to vote no more. A leader hands over first.
const DEMOTE_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Console {
    /// Makes a token for a node of this name. Only its hash goes to the coordinator.
    pub(super) async fn create_token(&self, name: &str, seconds: u64) -> Answer<doc::NewToken> {
        let fine = (1..=LABEL_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !name.starts_with('.');
        if !fine {
            return Err((
                Code::Usage,
                format!(
                    "a node cannot be called {name:?}: 1 to {LABEL_BYTES_MAX} letters, digits, `-`, `_` or `.`"
                ),
            ));
        }
        if !(1..=TOKEN_SECONDS_MAX).contains(&seconds) {
            let text =
                format!("a join token lives for 1 s to {} min, not for {seconds} s", TOKEN_SECONDS_MAX / 60);
            return Err((Code::Usage, text));
        }
        let text = format!("somebody makes a join token for {name}, good for {seconds} s");
        for _ in 0..TRIES {
            let registry = registry_of(&self.snapshot().await?)?;
            if registry.members().any(|it| it.name == name) {
                return Err((Code::NameTaken, format!("{name} is a member already")));
            }
            let cluster = registry.cluster().ok_or_else(not_founded)?;
            let node = &self.config.node;
            // Good beyond a change of this node's key that is under way.
            let standing = self.chain.standing();
            let key = standing.next.unwrap_or(standing.current);
            let token = Token::generate(cluster, name, node.address, PublicKey(key));
            let (serial, wall) = (registry.next_token(), clock::wall_seconds());
            let (hash, expires) = (token.hash(), wall + seconds);
            let command = Command::CreateToken { serial, hash, name: name.into(), wall, expires };
            match self.propose(&command, &text).await? {
                (Outcome::Refused(oarlock_cluster::registry::Refusal::NotNext { .. }), ..) => {}
                (Outcome::Refused(why), ..) => return Err((Code::ChangeRefused, why.to_string())),
                _ => {
                    return Ok(doc::NewToken {
                        v: doc::VERSION,
                        serial,
                        node: name.into(),
                        token: token.print(),
                        seconds,
                        member: self.config.name().into(),
                        address: node.address.to_string(),
                    });
                }
            }
        }
        Err((Code::ChangeRefused, "others make join tokens all the time".into()))
    }

    /// Tokens that are out.
    pub(super) async fn tokens(&self) -> Answer<doc::Tokens> {
        let registry = registry_of(&self.snapshot().await?)?;
        let now = clock::wall_seconds();
        let token = |it: &Kept| doc::Token {
            serial: it.serial,
            node: it.name.clone(),
            seconds: it.expires.saturating_sub(now),
        };
        Ok(doc::Tokens {
            v: doc::VERSION,
            node: self.config.name().into(),
            tokens: registry.tokens().map(token).collect(),
        })
    }

    /// Takes a token back.
    pub(super) async fn revoke_token(&self, serial: u64) -> Answer<doc::Revoked> {
        let registry = registry_of(&self.snapshot().await?)?;
        if serial == 0 || serial >= registry.next_token() {
            return Err((Code::Usage, format!("there has never been a join token {serial}")));
        }
        let text = format!("somebody revokes join token {serial}");
        let (outcome, _, doubtful) = self.propose(&Command::RevokeToken { serial }, &text).await?;
        Ok(doc::Revoked { v: doc::VERSION, serial, changed: outcome.changed() || doubtful })
    }

    /// Prepares this node to leave: it gets no new work and votes no more. Then the engine ends its run, and answers.
    ///
    /// In this order, because a vote that nobody can reach would still be asked for: members close their circuits to who has left.
    pub(super) async fn leave(&self, session: SessionId, request: u32) -> Answer<()> {
        let me = self.config.me;
        let registry = registry_of(&self.snapshot().await?)?;
        let name = self.config.name();
        if registry.members().all(|it| it.node == me) {
            return Err((
                Code::ChangeRefused,
                format!("{name} is the only member; a cluster ends with it: stop it"),
            ));
        }
        if !registry.members().any(|it| it.node != me && it.role == Role::Voter) {
            let text = format!("{name} is the only one that votes; wait until another member votes as well");
            return Err((Code::ChangeRefused, text));
        }
        self.retire(registry, me, name).await?;
        let document = serde_json::to_string(&self.without(name)).expect("a document is plain data");
        self.link.send(Control::Leave { session, request, document });
        Ok(())
    }

    /// Ends the membership of a node that cannot say it itself, because its machine is lost. It must be out: whoever is in
    /// may hold locks.
    pub(super) async fn remove(&self, name: &str) -> Answer<doc::Left> {
        let snapshot = self.snapshot().await?;
        decidable(&snapshot)?;
        let registry = registry_of(&snapshot)?;
        let node = member(&registry, name)?;
        if node == self.config.me {
            let text = format!("{name} is the node that answers: say `oarlock leave` to it");
            return Err((Code::ChangeRefused, text));
        }
        if let Some(run) = registry.run(node) {
            let text = format!(
                "run {run} of {name} is in the view: a node that works leaves by `oarlock leave` there, one that is lost is \
                 put out when its lease is over, or by `oarlock node evict {name}`"
            );
            return Err((Code::ChangeRefused, text));
        }
        if registry.fences().any(|it| it.node == node && it.needs.contains(&Need::Program)) {
            let text = format!(
                "{name} is still to be fenced, by a program that knows it by this name: wait until that is done, or make \
                 sure that it is off and say `oarlock node fence {name} --confirmed`"
            );
            return Err((Code::ChangeRefused, text));
        }
        let registry = self.retire(registry, node, name).await?;
        self.mark(registry, node, name, |seen| Command::Leave { node, seen }).await?;
        Ok(self.without(name))
    }

    fn without(&self, name: &str) -> doc::Left {
        doc::Left { v: doc::VERSION, node: name.into(), cluster: self.config.cluster.clone() }
    }

    /// Gives a member no new work any more, and waits until it votes no more.
    async fn retire(&self, registry: Arc<Registry>, node: NodeId, name: &str) -> Answer<Arc<Registry>> {
        others_decide(&self.snapshot().await?, node, name)?;
        let registry = self.mark(registry, node, name, |seen| Command::Drain { node, seen }).await?;
        let learner = |seen| Command::SetRole { node, seen, role: Role::Learner };
        let registry = self.mark(registry, node, name, learner).await?;
        let until = clock::now() + DEMOTE_MAX;
        while self.snapshot().await?.standing.voters.contains(&node) {
            if clock::now() >= until {
                let text = format!(
                    "{name} gets no new work any more, but it still votes after {} s; it goes on as a member",
                    DEMOTE_MAX.as_secs()
                );
                return Err((Code::NoMajority, text));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(registry)
    }

    /// Changes the record of a member, as it is by then.
    async fn mark(
        &self,
        mut registry: Arc<Registry>,
        node: NodeId,
        name: &str,
        command: impl Fn(u64) -> Command,
    ) -> Answer<Arc<Registry>> {
        let text = format!("somebody asks that {name} leaves the cluster");
        for _ in 0..TRIES {
            let member = registry.members().find(|it| it.node == node);
            let seen =
                member.ok_or_else(|| (Code::HasLeft, format!("{name} is no member any more")))?.revision;
            match self.propose(&command(seen), &text).await? {
                (Outcome::Refused(oarlock_cluster::registry::Refusal::Changed { .. }), after, _) => {
                    registry = after
                }
                (Outcome::Refused(why), ..) => return Err((Code::ChangeRefused, why.to_string())),
                (_, after, _) => return Ok(after),
            }
        }
        Err((Code::ChangeRefused, "its record changes all the time".into()))
    }
}

/// Whether the voters beside `node` could decide anything: without a majority of them, not even that it votes no more.
fn others_decide(snapshot: &Snapshot, node: NodeId, name: &str) -> Answer<()> {
    let voters = &snapshot.standing.voters;
    if !voters.contains(&node) {
        return Ok(());
    }
    let heard = |m: &&MemberStatus| m.heard && m.node != node && voters.contains(&m.node);
    let (heard, others) = (snapshot.status.members.iter().filter(heard).count(), voters.len() - 1);
    if 2 * heard > others {
        return Ok(());
    }
    let text = format!(
        "{} hears {heard} of the {others} voters that there are without {name}, which is no majority; start the others first",
        snapshot.status.node
    );
    Err((Code::NoMajority, text))
}

fn not_founded() -> (Code, String) {
    (Code::NotServing, "the cluster is not founded yet".into())
}
