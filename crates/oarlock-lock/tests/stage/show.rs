//! How messages, modes, heads and blocks read in transcripts and counterexamples.

use std::fmt::Write as _;

use oarlock_layout::limit::VALUE_BYTES;
use oarlock_layout::message::lock::{Body, Conv, Head, Kind, Want};
use oarlock_layout::mode::Mode;
use oarlock_layout::value::Value;

pub(crate) fn letter(node: usize) -> char {
    (b'a' + node as u8) as char
}

pub(crate) fn mode(mode: Option<Mode>) -> String {
    mode.map_or("-".into(), |m| m.to_string())
}

pub(crate) fn show_value(value: &Value) -> String {
    let end = value.bytes.iter().position(|b| *b == 0).unwrap_or(VALUE_BYTES);
    let text = String::from_utf8_lossy(&value.bytes[..end]).into_owned();
    format!("v{}{} {text:?}", value.sequence, if value.valid { "" } else { "!" })
}

pub(crate) fn show_head(head: &Head) -> String {
    let try_ = if head.attempt == 0 { "" } else { " try" };
    let kind = if head.kind == Kind::Convert { " convert" } else { "" };
    format!("{}{kind}{try_} #{}", head.mode, head.number)
}

pub(crate) fn show_conv(conv: &Conv) -> String {
    let mut text = conv.mode.to_string();
    if let Some(alternate) = conv.alternate {
        write!(text, " or {alternate}").unwrap();
    }
    if conv.kind == Kind::Convert {
        text.push_str(" convert");
    }
    for (name, _) in conv.flags.iter_names() {
        write!(text, " {name}").unwrap();
    }
    text
}

pub(crate) fn show(body: &Body) -> String {
    let head = |head: &Option<Head>| head.map_or(String::new(), |h| format!(" head {}", show_head(&h)));
    let value = |value: &Option<Value>| value.map_or(String::new(), |v| format!(" value {}", show_value(&v)));
    match body {
        Body::Info(m) => {
            let mut text = format!("Info {}/{} held {}", m.n, m.g, mode(m.held));
            if let Some(conv) = &m.conv {
                write!(text, " wants {}", show_conv(conv)).unwrap();
            }
            if m.busy != 0 {
                write!(text, " busy #{}", m.busy).unwrap();
            }
            match m.want {
                Want { value: false, serial: false } => {}
                Want { value: true, serial: false } => text.push_str(" asks value"),
                Want { value: false, serial: true } => text.push_str(" asks serial"),
                Want { value: true, serial: true } => text.push_str(" asks value and serial"),
            }
            if m.uses_value {
                text.push_str(" uses value");
            }
            text + &value(&m.value)
        }
        Body::Grant(m) => {
            let mut text = format!("Grant {}/{} {} serial {}", m.g, m.a, m.mode, m.serial);
            if m.alternate {
                text.push_str(" alternate");
            }
            if m.queued {
                text.push_str(" still queued");
            }
            if !m.current {
                text.push_str(" block not current");
            }
            text + &head(&m.head) + &value(&m.value)
        }
        Body::Deny(m) => format!("Deny {}/{} {:?}", m.g, m.a, m.reason),
        Body::Head(m) => {
            format!(
                "Head {}/{}{}",
                m.g,
                m.a,
                m.head.map_or(" none".into(), |h| format!(" {}", show_head(&h)))
            )
        }
        Body::Forget(m) => format!("Forget {}/{}{}", m.n, m.g, value(&m.value)),
        Body::ForgetAck(m) => format!("ForgetAck {}/{}", m.n, m.g),
        Body::Handover(m) => {
            let writer = m.writer.map_or(String::new(), |node| format!(" writer {}", letter(node.0.into())));
            let used = if m.uses_value { " uses value" } else { "" };
            format!("Handover{}{writer}{used}", value(&Some(m.value)))
        }
    }
}
