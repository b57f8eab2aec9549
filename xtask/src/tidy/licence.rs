//! Which licences we take: an evaluator for the expressions in manifests.

/// Permissive ones. A new one is a decision, so it stands here and in `deny.toml`.
const TAKEN: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "NCSA",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// May a package under this expression be linked? `OR` needs one side, `AND` both.
pub(super) fn check(expression: &str) -> Result<(), String> {
    if expression.is_empty() {
        return Err("states no licence".into());
    }
    // Old manifests write `MIT/Apache-2.0` for a choice.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    match (any(&mut words), words.next()) {
        (Some(true), None) => Ok(()),
        (Some(false), None) => {
            Err(format!("the licence {expression} is not on the list of xtask/src/tidy/licence.rs"))
        }
        _ => Err(format!("cannot read the licence {expression}")),
    }
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// `all (OR all)*`; none if it cannot be read.
fn any(words: &mut Words<'_>) -> Option<bool> {
    let mut taken = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        taken |= all(words)?;
    }
    Some(taken)
}

/// `one (AND one)*`.
fn all(words: &mut Words<'_>) -> Option<bool> {
    let mut taken = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        taken &= one(words)?;
    }
    Some(taken)
}

/// A name, with an exception perhaps, or something in parentheses.
fn one(words: &mut Words<'_>) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let taken = any(words)?;
        return words.next_if_eq(&")").map(|_| taken);
    }
    if words.next_if_eq(&"WITH").is_some() {
        let exception = words.next()?;
        return Some(TAKEN.contains(&format!("{word} WITH {exception}").as_str()));
    }
    Some(TAKEN.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn one_side_of_a_choice_and_both_sides_of_a_sum() {
        for taken in ["MIT", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "ISC AND (Apache-2.0 OR ISC) AND OpenSSL"] {
            assert_eq!(check(taken), Ok(()), "{taken}");
        }
        for refused in ["GPL-3.0", "MIT AND GPL-2.0", "(MIT OR ISC) AND AGPL-3.0", "", "MIT OR", "(MIT"] {
            assert!(check(refused).is_err(), "{refused}");
        }
        assert_eq!(check("Apache-2.0 WITH LLVM-exception OR GPL-2.0"), Ok(()));
    }
}
