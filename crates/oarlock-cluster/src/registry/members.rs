//! Who may be in views: founding, tokens, joining, leaving, marks.

use core::net::SocketAddr;

use oarlock_layout::id::{Epoch, Incarnation, NodeId, SpaceId};
use oarlock_layout::limit::NODES_MAX;
use oarlock_layout::seal::PublicKey;

use super::command::{Outcome, Refusal};
use super::record::{
    ClusterId, FirstSpace, Founder, MemberRecord, Need, Role, Space, TOKEN_CLOCKS_APART, TOKEN_SECONDS_MAX,
    TOKENS_MAX, Token, TokenHash,
};
use super::{Registry, check_name, fits, spaces, unchanged};

impl Registry {
    pub(super) fn init(
        &mut self,
        cluster: ClusterId,
        members: &[Founder],
        spaces: &[FirstSpace],
        above: Epoch,
    ) -> Result<Outcome, Refusal> {
        match self.cluster {
            Some(ours) if ours == cluster => return Ok(Outcome::Already),
            Some(_) => return Err(Refusal::OtherCluster),
            None => {}
        }
        check_founders(members)?;
        spaces::check_first(spaces)?;
        if !fits(above) {
            return Err(Refusal::EpochsExhausted);
        }
        let revision = self.next_revision();
        self.cluster = Some(cluster);
        self.view.epoch = above;
        for (node, it) in (0..).map(NodeId).zip(members) {
            let record = member(node, &it.name, it.address, it.key, None, revision);
            self.members.insert(node, MemberRecord { role: Role::Voter, ..record });
        }
        for (id, first) in (0..).map(SpaceId).zip(spaces) {
            let FirstSpace { name, settings } = first.clone();
            self.spaces.insert(id, Space { id, name, settings, revision });
            self.last_space = id;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn create_token(
        &mut self,
        serial: u64,
        hash: TokenHash,
        name: &str,
        wall: u64,
        expires: u64,
    ) -> Result<Outcome, Refusal> {
        if self.tokens.get(&serial).is_some_and(|t| t.hash == hash) {
            return Ok(Outcome::Already);
        }
        let next = self.next_token();
        if serial != next {
            return Err(Refusal::NotNext { named: serial, next });
        }
        check_name(name)?;
        let seconds = expires.saturating_sub(wall);
        if !(1..=TOKEN_SECONDS_MAX).contains(&seconds) {
            return Err(Refusal::TokenLife { seconds });
        }
        // Those whose time is over stay, so that whoever comes too late hears that; until their places are needed.
        if self.tokens.values().filter(|t| t.expires > wall).count() >= TOKENS_MAX {
            return Err(Refusal::TooManyTokens);
        }
        if self.tokens.len() >= TOKENS_MAX {
            self.tokens.retain(|_, t| t.expires > wall);
        }
        self.last_token = serial;
        self.tokens.insert(serial, Token { serial, hash, name: name.into(), expires });
        Ok(Outcome::Done)
    }

    pub(super) fn join(
        &mut self,
        hash: TokenHash,
        name: &str,
        address: SocketAddr,
        key: PublicKey,
        wall: u64,
    ) -> Result<Outcome, Refusal> {
        check_name(name)?;
        if let Some(known) = self.members().find(|m| m.name == name) {
            // A repetition names the same token and the same key. The token alone is not enough: it is used up.
            let same = known.token == Some(hash) && known.is_known_by(&key);
            let joined = Outcome::Joined { node: known.node, above: known.entered, already: true };
            return if same { Ok(joined) } else { Err(Refusal::NameTaken) };
        }
        let token = self.tokens.values().find(|t| t.hash == hash).ok_or(Refusal::NoSuchToken)?;
        if token.name != name {
            return Err(Refusal::TokenForOther);
        }
        if token.expires <= wall {
            return Err(Refusal::TokenExpired { seconds: wall - token.expires });
        }
        // Nobody has made it yet, by this clock: so the clock is wrong, and says nothing of whether the token's time is over.
        let made = token.expires.saturating_sub(TOKEN_SECONDS_MAX);
        if wall.saturating_add(TOKEN_CLOCKS_APART) < made {
            return Err(Refusal::TokenEarly { seconds: made - wall });
        }
        if let Some(other) = self.members().find(|m| m.is_known_by(&key)) {
            return Err(Refusal::KeyTaken(other.node));
        }
        let serial = token.serial;
        let node = self.free_id().ok_or(Refusal::TooManyMembers)?;
        let above = self.members.get(&node).map_or(Incarnation(0), |earlier| earlier.entered);
        self.tokens.remove(&serial);
        let revision = self.next_revision();
        let record =
            MemberRecord { entered: above, ..member(node, name, address, key, Some(hash), revision) };
        self.members.insert(node, record);
        Ok(Outcome::Joined { node, above, already: false })
    }

    /// The lowest id that no member has and of whose earlier owner nothing is pending.
    fn free_id(&self) -> Option<NodeId> {
        (0..NODES_MAX as u16).map(NodeId).find(|id| {
            let owned = self.members.get(id).is_some_and(|m| !m.left);
            !owned && !self.fences.keys().any(|(node, _)| node == id)
        })
    }

    pub(super) fn leave(&mut self, node: NodeId, seen: u64) -> Result<Outcome, Refusal> {
        if self.members.get(&node).is_some_and(|m| m.left) {
            return Ok(Outcome::Already);
        }
        let member = self.present(node)?;
        unchanged(seen, member.revision)?;
        if let Some(incarnation) = self.run(node) {
            return Err(Refusal::StillIn { node, incarnation });
        }
        // The program is told the name, which another node may have soon.
        if self.fences().any(|fence| fence.node == node && fence.needs.contains(&Need::Program)) {
            return Err(Refusal::FenceFirst(node));
        }
        if member.role == Role::Voter {
            self.other_voter(node)?;
            return Err(Refusal::StillVotes(node));
        }
        let revision = self.next_revision();
        let member = self.present_mut(node);
        (member.left, member.revision) = (true, revision);
        member.next = None;
        // Its id may be another's soon, who has seen nothing.
        for next in self.members.values_mut().filter_map(|m| m.next.as_mut()) {
            next.seen.retain(|by| *by != node);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn drain(&mut self, node: NodeId, seen: u64, drained: bool) -> Result<Outcome, Refusal> {
        let member = self.present(node)?;
        if member.drained == drained {
            return Ok(Outcome::Already);
        }
        unchanged(seen, member.revision)?;
        let revision = self.next_revision();
        let member = self.present_mut(node);
        (member.drained, member.revision) = (drained, revision);
        Ok(Outcome::Done)
    }

    pub(super) fn set_role(&mut self, node: NodeId, seen: u64, role: Role) -> Result<Outcome, Refusal> {
        let member = self.present(node)?;
        if member.role == role {
            return Ok(Outcome::Already);
        }
        unchanged(seen, member.revision)?;
        if role == Role::Learner {
            self.other_voter(node)?;
        }
        let revision = self.next_revision();
        let member = self.present_mut(node);
        (member.role, member.revision) = (role, revision);
        Ok(Outcome::Done)
    }

    /// A coordinator needs a voter beside `node`.
    fn other_voter(&self, node: NodeId) -> Result<(), Refusal> {
        let mut others = self.members().filter(|m| m.node != node);
        if others.any(|m| m.role == Role::Voter) { Ok(()) } else { Err(Refusal::LastVoter(node)) }
    }

    /// The member, if it has not left.
    pub(super) fn present(&self, node: NodeId) -> Result<&MemberRecord, Refusal> {
        self.members.get(&node).filter(|m| !m.left).ok_or(Refusal::NotAMember(node))
    }

    pub(super) fn present_mut(&mut self, node: NodeId) -> &mut MemberRecord {
        self.members.get_mut(&node).expect("looked up before")
    }
}

/// What holds for members that join holds for those that found: each has its own name and key.
fn check_founders(members: &[Founder]) -> Result<(), Refusal> {
    if members.is_empty() {
        return Err(Refusal::BadFounding);
    }
    if members.len() > NODES_MAX {
        return Err(Refusal::TooManyMembers);
    }
    for (at, member) in members.iter().enumerate() {
        check_name(&member.name)?;
        let before = &members[..at];
        if before.iter().any(|other| other.name == member.name) {
            return Err(Refusal::NameTaken);
        }
        if let Some(other) = before.iter().position(|other| other.key == member.key) {
            return Err(Refusal::KeyTaken(NodeId(other as u16)));
        }
    }
    Ok(())
}

fn member(
    node: NodeId,
    name: &str,
    address: SocketAddr,
    key: PublicKey,
    token: Option<TokenHash>,
    revision: u64,
) -> MemberRecord {
    MemberRecord {
        node,
        name: name.into(),
        address,
        key,
        role: Role::Learner,
        drained: false,
        left: false,
        entered: Incarnation(0),
        nonce: None,
        renewal: 0,
        surrendered: false,
        token,
        revision,
        next: None,
        made: None,
        cut_off: None,
    }
}
