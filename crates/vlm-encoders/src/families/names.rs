//! Where each parameter lies in a file: one table a family.

use crate::checkpoint::{Layout, Named};

/// How a name is translated beside being replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Matrices are transposed, all else is the same.
    Plain,
    /// One of several that the file holds one under the other.
    Part(usize, usize),
    /// With so many dimensions of 1 before its own.
    Lead(usize),
    /// Not even matrices are transposed.
    AsIs,
    /// `[]` in the file.
    Scalar,
}

/// The beginning of a path here, what stands for it there, and how.
pub type Entry = (&'static str, &'static str, How);

/// A family's table.
///
/// A path of a block is looked up without what stands before and with the block's number:
/// `vision.stack.blocks.3.norm1.weight` as `norm1.weight`.
#[derive(Clone, Debug)]
pub struct Names {
    /// Before all names of the image tower and of the text tower, such as `vit.`.
    pub roots: [String; 2],
    /// Before a block's number, in the image tower and in the text tower.
    pub blocks: [&'static str; 2],
    /// Names within a block.
    pub inner: &'static [Entry],
    /// All others; a name that begins with `/` has no root.
    pub outer: &'static [Entry],
    /// Channels and side of the patch convolution; `None` if patches are a linear map.
    pub patches: Option<(usize, usize)>,
}

impl Names {
    /// What stands before the number of a block in the names of a tower, 0 for pictures and 1 for
    /// texts.
    pub fn before_blocks(&self, tower: usize) -> String {
        format!("{}{}", self.roots[tower], self.blocks[tower])
    }

    /// The name and layout of the parameter at `path` with so many dimensions.
    pub fn named(&self, path: &str, rank: usize) -> Named {
        let tower = usize::from(path.starts_with("text"));
        let stack = ["vision.stack.blocks.", "text.stack.blocks."][tower];
        let (before, rest, table) = match path.strip_prefix(stack).and_then(|p| p.split_once('.')) {
            Some((number, rest)) => {
                let root = &self.roots[tower];
                (format!("{root}{}{number}.", self.blocks[tower]), rest, self.inner)
            }
            None => (String::new(), path, self.outer),
        };
        let found = table.iter().find(|(ours, _, _)| rest.starts_with(ours));
        let (name, how) = match found {
            Some((ours, theirs, how)) => {
                let root = if before.is_empty() { self.roots[tower].as_str() } else { "" };
                let name = match theirs.strip_prefix('/') {
                    Some(name) => name.to_owned(),
                    None => format!("{root}{theirs}"),
                };
                (format!("{before}{name}{}", &rest[ours.len()..]), *how)
            }
            // The same there as here.
            None => (format!("{before}{rest}"), How::Plain),
        };
        let matrix = rank == 2 && path.ends_with(".weight");
        let layout = match how {
            How::Scalar => Layout::Scalar,
            How::Lead(ones) => Layout::Lead(ones),
            How::AsIs => Layout::Same,
            How::Plain | How::Part(..) if path == "vision.patches.weight" => match self.patches {
                Some((channels, patch)) => Layout::Patches { channels, patch },
                None => Layout::Transposed,
            },
            How::Plain | How::Part(..) if matrix => Layout::Transposed,
            How::Plain | How::Part(..) => Layout::Same,
        };
        let part = match how {
            How::Part(index, of) => Some((index, of)),
            _ => None,
        };
        Named { name, layout, part }
    }
}
