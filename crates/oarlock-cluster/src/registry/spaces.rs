//! Lockspaces.

use alloc::collections::BTreeSet;

use oarlock_layout::id::SpaceId;
use oarlock_layout::limit::SPACES_MAX;

use super::command::{Outcome, Refusal};
use super::record::{FirstSpace, Space, SpaceSettings};
use super::{Registry, check_name, unchanged};

/// Settings that a lockspace can have.
pub(super) const fn check(settings: &SpaceSettings) -> Result<(), Refusal> {
    match settings.value {
        0 | 32 | 64 => Ok(()),
        other => Err(Refusal::BadValue(other)),
    }
}

/// Lockspaces that a cluster can begin with.
pub(super) fn check_first(spaces: &[FirstSpace]) -> Result<(), Refusal> {
    if spaces.first().is_none_or(|first| first.name != "default") {
        return Err(Refusal::BadFounding);
    }
    if spaces.len() > SPACES_MAX {
        return Err(Refusal::TooManySpaces);
    }
    let mut names = BTreeSet::new();
    for space in spaces {
        check_name(&space.name)?;
        check(&space.settings)?;
        if !names.insert(&space.name) {
            return Err(Refusal::NameTaken);
        }
    }
    Ok(())
}

impl Registry {
    pub(super) fn create_space(
        &mut self,
        id: SpaceId,
        name: &str,
        settings: &SpaceSettings,
    ) -> Result<Outcome, Refusal> {
        if self.spaces.get(&id).is_some_and(|s| s.name == name && s.settings == *settings) {
            return Ok(Outcome::Already);
        }
        let next = self.next_space().ok_or(Refusal::TooManySpaces)?;
        if id != next {
            return Err(Refusal::NotNext { named: id.0.into(), next: next.0.into() });
        }
        check_name(name)?;
        check(settings)?;
        if self.spaces.values().any(|s| s.name == name) {
            return Err(Refusal::NameTaken);
        }
        if self.spaces.len() >= SPACES_MAX {
            return Err(Refusal::TooManySpaces);
        }
        let revision = self.next_revision();
        self.last_space = id;
        self.spaces.insert(id, Space { id, name: name.into(), settings: settings.clone(), revision });
        Ok(Outcome::Done)
    }

    pub(super) fn change_space(
        &mut self,
        id: SpaceId,
        seen: u64,
        settings: &SpaceSettings,
    ) -> Result<Outcome, Refusal> {
        let revision = self.next_revision();
        let space = self.spaces.get_mut(&id).ok_or(Refusal::NoSuchSpace(id))?;
        if space.settings == *settings {
            return Ok(Outcome::Already);
        }
        unchanged(seen, space.revision)?;
        check(settings)?;
        (space.settings, space.revision) = (settings.clone(), revision);
        Ok(Outcome::Done)
    }

    pub(super) fn drop_space(&mut self, id: SpaceId, seen: u64) -> Result<Outcome, Refusal> {
        if id == SpaceId(0) {
            return Err(Refusal::DefaultStays);
        }
        let Some(space) = self.spaces.get(&id) else {
            return if id <= self.last_space { Ok(Outcome::Already) } else { Err(Refusal::NoSuchSpace(id)) };
        };
        unchanged(seen, space.revision)?;
        self.spaces.remove(&id);
        Ok(Outcome::Done)
    }
}
