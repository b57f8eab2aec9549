//! The working tree as text.

use std::fs;
use std::path::Path;

use super::mask;
use crate::context::Failure;

/// Directories that hold what tools make, not what people write.
const SKIPPED: &[&str] = &["target", ".git", "artifacts", "node_modules"];

/// One text file.
pub(crate) struct File {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    /// What it says.
    pub(crate) text: String,
    /// The same with comments and literals blanked, for Rust files; else the text.
    pub(crate) code: String,
}

/// Every text file.
pub(crate) struct Tree {
    /// In order of their paths.
    pub(crate) files: Vec<File>,
}

impl Tree {
    /// Reads all files below `root` that are text.
    pub(crate) fn read(root: &Path) -> Result<Tree, Failure> {
        let mut files = Vec::new();
        let mut open = vec![root.to_path_buf()];
        while let Some(dir) = open.pop() {
            let entries = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            for entry in entries {
                let entry = entry.map_err(|e| format!("{}: {e}", dir.display()))?;
                let path = entry.path();
                if path.is_dir() {
                    if !SKIPPED.contains(&entry.file_name().to_string_lossy().as_ref()) {
                        open.push(path);
                    }
                    continue;
                }
                let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                let Ok(text) = String::from_utf8(bytes) else { continue };
                let path = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                files.push(File::new(path, text));
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Tree { files })
    }

    /// The file at a path.
    pub(crate) fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|f| f.path == path)
    }

    /// Files with an ending, like `.rs`.
    pub(crate) fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = &'a File> {
        self.files.iter().filter(move |f| f.path.ends_with(end))
    }
}

impl File {
    /// A file with this text.
    pub(crate) fn new(path: String, text: String) -> File {
        let code = if path.ends_with(".rs") { mask::mask(&text) } else { text.clone() };
        File { path, text, code }
    }

    /// The code before the tests at the end, by line from 1.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.code.find("\n#[cfg(test)]\nmod ").map_or(self.code.len(), |at| at + 1);
        self.code[..tests].lines().enumerate().map(|(i, line)| (i + 1, line))
    }
}
