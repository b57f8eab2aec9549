//! The versions of the symbols, beside `oarlock.map`: a linker that is given two version scripts, this one's and the
//! compiler's, learns only so which version an exported name has. Test programs have no versions.

macro_rules! versions {
    ($version:literal: $($name:literal)*) => {
        /// Every symbol with its version, for those who compare.
        #[cfg(test)]
        pub(crate) const ALL: &[(&str, &str)] = &[$(($name, $version)),*];

        $(#[cfg(not(test))]
        core::arch::global_asm!(concat!(".symver ", $name, ", ", $name, "@@", $version));)*
    };
}

pub(crate) use versions;

#[cfg(test)]
mod tests {
    use crate::exports::ALL;

    /// The names between `global:` and `local:` in the map, the functions of `exports.rs`, and the list above.
    #[test]
    fn the_map_the_functions_and_the_list_name_the_same() {
        let map = include_str!("../oarlock.map");
        let mut in_map = Vec::new();
        let mut version = "";
        for line in map.lines() {
            let line = line.trim();
            if let Some(name) = line.strip_suffix(" {") {
                version = name;
            } else if let Some(name) = line.strip_suffix(';').filter(|name| name.starts_with("oar_")) {
                in_map.push((name, version));
            }
        }
        assert_eq!(in_map, ALL);
        let exports = include_str!("exports.rs");
        let functions: Vec<&str> = exports
            .split("\npub unsafe extern \"C\" fn ")
            .skip(1)
            .map(|text| text.split('(').next().unwrap_or_default())
            .collect();
        assert_eq!(functions, ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}
