//! What can go wrong with pictures.

use std::path::PathBuf;

/// A failure of reading or preparing a picture. Each message is one line that names the file, as
/// far as there is one, and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file that cannot be opened, read or written.
    #[error("{name}: {source}; check the path and its permissions")]
    Io {
        /// The file.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder, a pipe, a device.
    #[error("{name}: is {kind}, not a file; give the path of a picture")]
    NotAFile {
        /// The path.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// A file of no bytes.
    #[error("{name}: the file is empty (0 bytes); fetch or export it again")]
    EmptyFile {
        /// The file.
        name: String,
    },
    /// A file of more bytes than any picture that would be accepted.
    #[error("{name}: {mib} MiB are too many for one picture (limit {limit_mib}); shrink it")]
    FileTooLarge {
        /// The file.
        name: String,
        /// Its size.
        mib: u64,
        /// The limit.
        limit_mib: u64,
    },
    /// Content that is no known picture format.
    #[error(
        "{name}: not a picture that can be read ({found}); use PNG, JPEG, GIF, WebP, BMP, TIFF or PNM"
    )]
    NotAPicture {
        /// The file.
        name: String,
        /// The beginning of the content, as words.
        found: String,
    },
    /// Dimensions over the limits, found before anything was decoded.
    #[error(
        "{name}: declares {width}x{height} pixels, over the limit of {max_megapixels} megapixels and {max_edge} an edge; shrink it"
    )]
    TooLarge {
        /// The file.
        name: String,
        /// Declared width in pixels.
        width: u32,
        /// Declared height in pixels.
        height: u32,
        /// Limit of the area, in million pixels.
        max_megapixels: u64,
        /// Limit of an edge, in pixels.
        max_edge: u32,
    },
    /// Data that ends before the picture does.
    #[error("{name}: the file is cut off ({detail}); fetch or export it again")]
    Truncated {
        /// The file.
        name: String,
        /// Where.
        detail: String,
    },
    /// Data that the decoder refuses.
    #[error("{name}: damaged {format} data ({detail}); fetch or export it again")]
    Damaged {
        /// The file.
        name: String,
        /// The format found.
        format: String,
        /// What the decoder said.
        detail: String,
    },
    /// A sort of picture that is not supported.
    #[error("{name}: {detail} is not supported; save it as an 8-bit PNG or JPEG")]
    Unsupported {
        /// The file.
        name: String,
        /// What.
        detail: String,
    },
    /// A picture with a side of 0 pixels.
    #[error("a picture with a side of 0 pixels cannot be resized; drop it from the data")]
    EmptyPicture,
    /// A resized picture, or what is kept on the way to it, over the memory bound.
    #[error(
        "resizing would take more than {limit_mib} MiB, the picture is too long and narrow or the size asked for too large; crop the picture or turn do_center_crop on"
    )]
    Bound {
        /// The bound.
        limit_mib: usize,
    },
    /// A picture whose sides are not whole patches, or that has too many of them.
    #[error(
        "a picture of {height}x{width} pixels does not split into at most {max_num_patches} patches of {patch_size}x{patch_size}; prepare it with the processor of the same patch_size and max_num_patches"
    )]
    NotPatches {
        /// Of the picture, in pixels.
        height: usize,
        /// Of the picture, in pixels.
        width: usize,
        /// Edge of a patch, in pixels.
        patch_size: usize,
        /// The most patches.
        max_num_patches: usize,
    },
    /// Any of the above while processing a file.
    #[error("{name}: {source}")]
    Processing {
        /// The file.
        name: String,
        /// What failed.
        source: Box<ImageError>,
    },
    /// A processor file that is missing.
    #[error("{}: no preprocessor_config.json (nor processor_config.json); copy it from the model's repository, or save one with ImageProcessor::save", .dir.display())]
    NoConfig {
        /// The folder searched.
        dir: PathBuf,
    },
    /// A processor that its class in transformers cannot express.
    #[error("{class} cannot be saved: {detail}; change the processor's kind or this step")]
    NotOfKind {
        /// The class.
        class: &'static str,
        /// The step that the class lacks.
        detail: &'static str,
    },
    /// A processor file that is not understood.
    #[error("{}: {}", .file.display(), one_line(detail))]
    Config {
        /// The file.
        file: PathBuf,
        /// The field, what was found and what to do.
        detail: String,
    },
}

/// A message of another library as one line.
pub(super) fn one_line(message: impl std::fmt::Display) -> String {
    message.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
