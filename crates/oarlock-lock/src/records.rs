//! What a master knows of its shadows, by node.
//!
//! Most resources have one user: the first record lies in the master itself, and only more than one need room elsewhere.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Index;

use oarlock_layout::id::NodeId;

use crate::master::Record;

/// Records in the order of their nodes.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Records {
    first: Option<(NodeId, Record)>,
    /// Behind the first; none while there is only one.
    #[expect(clippy::box_collection, reason = "most have none, and that shall take eight bytes")]
    rest: Option<Box<Vec<(NodeId, Record)>>>,
}

impl Records {
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Record)> {
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        self.first.iter().chain(rest).map(|(node, rec)| (node, rec))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Record> {
        self.iter().map(|(_, rec)| rec)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &NodeId> {
        self.iter().map(|(node, _)| node)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        let rest = self.rest.iter_mut().flat_map(|rest| rest.iter_mut());
        self.first.iter_mut().chain(rest).map(|(_, rec)| rec)
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<&Record> {
        self.iter().find(|(other, _)| *other == node).map(|(_, rec)| rec)
    }

    pub(crate) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Record> {
        let rest = self.rest.iter_mut().flat_map(|rest| rest.iter_mut());
        self.first.iter_mut().chain(rest).find(|(other, _)| other == node).map(|(_, rec)| rec)
    }

    pub(crate) fn contains_key(&self, node: &NodeId) -> bool {
        self.get(node).is_some()
    }

    /// The record of a node, made if there is none.
    pub(crate) fn get_or_default(&mut self, node: NodeId) -> &mut Record {
        if self.first.is_none() {
            self.first = Some((node, Record::default()));
        } else if !self.contains_key(&node) {
            let mut all = self.take();
            let place = all.partition_point(|(other, _)| *other < node);
            all.insert(place, (node, Record::default()));
            self.put(all);
        }
        self.get_mut(&node).expect("made if there was none")
    }

    pub(crate) fn remove(&mut self, node: &NodeId) {
        if self.contains_key(node) {
            let mut all = self.take();
            all.retain(|(other, _)| other != node);
            self.put(all);
        }
    }

    fn take(&mut self) -> Vec<(NodeId, Record)> {
        let rest = self.rest.take().map_or_else(Vec::new, |rest| *rest);
        self.first.take().into_iter().chain(rest).collect()
    }

    fn put(&mut self, all: Vec<(NodeId, Record)>) {
        let mut all = all.into_iter();
        self.first = all.next();
        self.rest = (all.len() > 0).then(|| Box::new(all.collect()));
    }
}

impl Index<&NodeId> for Records {
    type Output = Record;

    fn index(&self, node: &NodeId) -> &Record {
        self.get(node).expect("a record")
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = (&'a NodeId, &'a Record);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_as_in_a_map_whatever_the_order_in_which_they_come_and_go() {
        let mut records = Records::default();
        let mut twin = alloc::collections::BTreeMap::new();
        for (step, node) in [5u16, 2, 9, 2, 7, 5, 1, 9].into_iter().enumerate() {
            let node = NodeId(node);
            if twin.remove(&node).is_some() {
                records.remove(&node);
            } else {
                twin.insert(node, step as u64);
                records.get_or_default(node).g = step as u64;
            }
            let both = records.iter().map(|(node, rec)| (*node, rec.g));
            assert!(both.eq(twin.iter().map(|(node, g)| (*node, *g))), "after step {step}");
            assert_eq!(records.is_empty(), twin.is_empty());
            assert!(twin.keys().all(|node| records[node].g == twin[node]));
        }
        records.values_mut().for_each(|rec| rec.g = 0);
        assert!(records.values().all(|rec| rec.g == 0) && records.keys().eq(twin.keys()));
    }
}
