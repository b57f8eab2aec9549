//! Counters as a document, and everything as text that monitors read.
//!
//! Labels name nodes and lockspaces, never resources: there may be millions of those.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
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

/// The forms in which monitors read metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// Text 0.0.4, which everything reads.
    Classic,
    /// OpenMetrics 1.0, for those who ask for it.
    Open,
}

/// The media type of OpenMetrics.
const OPEN: &str = "application/openmetrics-text";

impl Form {
    /// What somebody gets who accepts this (RFC 9110, 12.5.1). Many who accept anything can read only the classic
    /// form.
    pub(super) fn wanted(accept: &str) -> Form {
        let weight = |kind: &str| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                parts.next().filter(|it| it.eq_ignore_ascii_case(kind))?;
                let q = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
                Some(q.map_or(1.0, |q| q.parse::<f64>().unwrap_or(0.0)))
            });
            ranges.fold(0.0, f64::max)
        };
        let open = weight(OPEN);
        if open > 0.0 && open >= weight("text/plain") { Form::Open } else { Form::Classic }
    }

    /// What it is called.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Form::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Form::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All metrics as text.
pub(super) fn text(snapshot: Snapshot, form: Form) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("oarlock");
    registry.register_collector(Box::new(All(snapshot)));
    let mut out = String::new();
    prometheus_client::encoding::text::encode(&mut out, &registry)?;
    Ok(match form {
        Form::Classic => classic(&out),
        Form::Open => out,
    })
}

/// OpenMetrics in the classic form: there a counter is described under the name its samples have, and nothing marks
/// the end.
fn classic(open: &str) -> String {
    let counters: BTreeSet<&str> =
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(open.len());
    for line in open.lines().filter(|line| *line != "# EOF") {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", what, name, rest] if counters.contains(name) => {
                out.extend(["# ", what, " ", name, "_total ", rest]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[derive(Debug)]
struct All(Snapshot);

impl Collector for All {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Snapshot { now, began, status, counters, .. } = &self.0;
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
        family("space_waiting", "Locks of this node's programs that wait", "space", &space(|s| s.waiting))?;
        family(
            "attached_sessions",
            "Sessions whose programs may grant themselves locks of the lockspace",
            "space",
            &space(|s| s.tally.attached as usize),
        )?;

        let circuits = || peers().filter_map(|m| Some((m.name.as_str(), m.circuit.as_ref()?.counters)));
        let values = circuits().map(|(node, c)| ([("node", node)], c.datagrams_sent));
        count(&mut encoder, "circuit_datagrams_sent", "Sealed datagrams built for the member", values)?;
        let values = circuits().map(|(node, c)| ([("node", node)], c.resent));
        count(&mut encoder, "circuit_resent", "Segments sent to the member again", values)?;
        let values = status.spaces.iter().flat_map(|s| {
            let hows = s.counters.grants_by_how().chain([("fast", s.tally.grants)]);
            hows.map(|(how, n)| ([("space", s.name.as_str()), ("how", how)], n))
        });
        count(&mut encoder, "lock_grants", "Locks granted to programs of this node", values)?;
        let values = status.spaces.iter().flat_map(|s| {
            s.counters.messages_by_type().map(|(of, n)| ([("space", s.name.as_str()), ("type", of)], n))
        });
        count(&mut encoder, "lock_messages", "Lock messages sent to other nodes", values)?;

        let help = "How long granted requests of this node's programs had waited";
        let kind = MetricType::Histogram;
        let mut family = encoder.encode_descriptor("lock_wait_seconds", help, None, kind)?;
        for s in &status.spaces {
            let waits = &s.counters.waits;
            let bound = |bound: Option<Duration>| bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
            let buckets: Vec<_> = waits.buckets().map(|(upper, n)| (bound(upper), n)).collect();
            family.encode_family(&[("space", s.name.as_str())])?.encode_histogram::<NoLabelSet>(
                waits.sum().as_secs_f64(),
                waits.count(),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// A counter for each set of labels.
fn count<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = ([(&'static str, &'a str); N], u64)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor that says nothing, or takes anything, can read the classic form for sure.
    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "application/openmetrics-text;version=1.0.0;q=0,text/plain",
            "application/openmetrics-text;q=0.3,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;q=much",
        ] {
            assert_eq!(Form::wanted(accept), Form::Classic, "{accept}");
        }
        for accept in [
            OPEN,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "text/plain;q=0.2, Application/OpenMetrics-Text;Q=0.5",
        ] {
            assert_eq!(Form::wanted(accept), Form::Open, "{accept}");
        }
    }

    #[test]
    fn the_classic_form_describes_counters_under_the_names_of_their_samples() {
        let open = "# HELP oarlock_a Some a\n# TYPE oarlock_a counter\noarlock_a_total 1\n\
                    # HELP oarlock_b Some b\n# TYPE oarlock_b gauge\noarlock_b{x=\"# EOF\"} 2.0\n# EOF\n";
        let text = "# HELP oarlock_a_total Some a\n# TYPE oarlock_a_total counter\noarlock_a_total 1\n\
                    # HELP oarlock_b Some b\n# TYPE oarlock_b gauge\noarlock_b{x=\"# EOF\"} 2.0\n";
        assert_eq!(classic(open), text);
    }
}
