//! Counters as a document, and everything as text that monitors read.
//!
//! Labels name nodes and lockspaces, never resources: there may be millions of those.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::doc;
use crate::engine::Snapshot;

/// The counters as a document.
pub(super) fn document(snapshot: &Snapshot) -> doc::Counters {
    let counters = snapshot.counters.iter().map(|c| doc::Counter {
        name: c.name.into(),
        help: c.help.into(),
        value: c.value,
    });
    doc::Counters { v: doc::VERSION, node: snapshot.status.node.clone(), counters: counters.collect() }
}

/// All metrics in the text form.
pub(super) fn text(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("oarlock");
    registry.register_collector(Box::new(All(snapshot)));
    let mut out = String::new();
    prometheus_client::encoding::text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct All(Snapshot);

impl Collector for All {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Snapshot { now, began, status, counters } = &self.0;
        for c in counters {
            let metric = ConstCounter::new(c.value);
            metric.encode(encoder.encode_descriptor(c.name, c.help, None, MetricType::Counter)?)?;
        }
        let mut one = |name: &str, help: &str, value: f64| {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        let serving = status.phase == oarlock_layout::message::form::Phase::Serving;
        one("serving", "1 if the node grants locks", f64::from(u8::from(serving)))?;
        one("healthy", "1 if it also hears every member", f64::from(u8::from(status.is_well())))?;
        one("epoch", "Epoch of the view", f64::from(status.epoch.0))?;
        one("sessions", "Programs attached", status.sessions as f64)?;
        one("uptime_seconds", "Since the daemon began", now.since(*began).as_secs_f64())?;

        let mut family = |name: &str, help: &str, label: &str, values: &[(&str, f64)]| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (of, value) in values {
                ConstGauge::new(*value).encode(family.encode_family(&[(label, *of)])?)?;
            }
            Ok::<(), fmt::Error>(())
        };
        let peers = || status.members.iter().filter(|m| !m.is_me);
        let heard: Vec<_> = peers().map(|m| (m.name.as_str(), f64::from(u8::from(m.heard)))).collect();
        family("member_heard", "1 if the member is heard", "node", &heard)?;
        let rtt = |m: &oarlock_node::MemberStatus| m.circuit.as_ref()?.rtt.map(|d| d.as_secs_f64());
        let rtts: Vec<_> = peers().filter_map(|m| Some((m.name.as_str(), rtt(m)?))).collect();
        family("circuit_rtt_seconds", "Smoothed round trip of the circuit", "node", &rtts)?;
        let space = |of: fn(&oarlock_node::SpaceStatus) -> usize| -> Vec<(&str, f64)> {
            status.spaces.iter().map(|s| (s.name.as_str(), of(s) as f64)).collect()
        };
        family(
            "space_resources",
            "Resources of the lockspace on this node",
            "space",
            &space(|s| s.resources),
        )?;
        family("space_mastered", "Resources this node decides about", "space", &space(|s| s.mastered))?;
        family("space_waiting", "Locks of this node's programs that wait", "space", &space(|s| s.waiting))
    }
}
