//! Picture files to RGB.
//!
//! What transformers' `load_image` does with Pillow, for untrusted files: the format is told by
//! content, the EXIF orientation is applied, of an animation the first frame is taken, colour
//! profiles are ignored, 16-bit samples keep their high byte (Pillow does so for colour, but cuts
//! 16-bit grey off at 255).
//!
//! Deviations: transparent pixels are laid on white, where Pillow's `convert("RGB")` uncovers
//! whatever colour is stored below; a cut-off file is an error; an orientation that stands only in
//! XMP metadata is not looked for; JPEG decoders differ by one or two levels. What a damaged file
//! makes a decoder do, a panic included, becomes an [`ImageError`]; the message of a panic still
//! reaches the process's panic hook.

use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::image::{
    DynamicImage, ImageDecoder, ImageError as Foreign, ImageFormat, ImageReader, Limits, RgbImage,
    RgbaImage,
};

use super::error::{ImageError, one_line};
use super::jpeg;

/// Pixels of the largest picture that is decoded: 128 million.
pub const MAX_PIXELS: u64 = 128_000_000;
/// Longest edge of a picture that is decoded.
pub const MAX_EDGE: u32 = 65_500;
/// Most bytes that a decoder may allocate, and a file may have.
const MAX_ALLOC: u64 = 1 << 30;

/// Reads a picture as RGB; transparent parts are laid on white.
///
/// # Errors
/// [`ImageError`]: the file is missing, not a picture, cut off, damaged or over the limits.
pub fn load(path: &Path) -> Result<RgbImage, ImageError> {
    load_bytes(&read(path)?, &path.display().to_string())
}

/// Reads a picture as RGB with alpha (straight, not premultiplied).
///
/// # Errors
/// As [`load`].
pub fn load_rgba(path: &Path) -> Result<RgbaImage, ImageError> {
    load_rgba_bytes(&read(path)?, &path.display().to_string())
}

/// Width and height that a file declares, as they are stored, without decoding it.
///
/// # Errors
/// [`ImageError`]: the file is missing or not a picture.
pub fn size(path: &Path) -> Result<(u32, u32), ImageError> {
    let name = || path.display().to_string();
    let io = |source| ImageError::Io { name: name(), source };
    // As in `read`.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(ImageError::NotAFile { name: name(), kind: "a folder, pipe or device" });
    }
    let looked = catch_unwind(AssertUnwindSafe(|| {
        let file = BufReader::new(File::open(path)?);
        let mut reader = ImageReader::new(file).with_guessed_format()?;
        reader.no_limits();
        reader.into_dimensions().map_err(std::io::Error::other)
    }));
    looked.unwrap_or_else(|_| Err(std::io::Error::other("the decoder panicked"))).map_err(io)
}

/// [`load`] from memory; `name` stands for the file in messages.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(bytes: &[u8], name: &str) -> Result<RgbImage, ImageError> {
    let decoded = decode(bytes, name)?;
    Ok(match decoded {
        DynamicImage::ImageRgb8(picture) => picture,
        other if other.color().has_alpha() => on_white(&to_rgba(other)),
        other => to_rgb(other),
    })
}

/// [`load_rgba`] from memory; `name` stands for the file in messages.
///
/// # Errors
/// As [`load`].
pub fn load_rgba_bytes(bytes: &[u8], name: &str) -> Result<RgbaImage, ImageError> {
    decode(bytes, name).map(to_rgba)
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    let name = || path.display().to_string();
    let io = |source| ImageError::Io { name: name(), source };
    // Opening a pipe without a writer would wait for ever, so look first.
    let about = std::fs::metadata(path).map_err(io)?;
    if !about.is_file() {
        let kind = if about.is_dir() { "a folder" } else { "a pipe or device" };
        return Err(ImageError::NotAFile { name: name(), kind });
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_ALLOC + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_ALLOC {
        return Err(ImageError::FileTooLarge {
            name: name(),
            mib: about.len() >> 20,
            limit_mib: MAX_ALLOC >> 20,
        });
    }
    Ok(bytes)
}

fn decode(bytes: &[u8], name: &str) -> Result<DynamicImage, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::EmptyFile { name: name.into() });
    }
    let format = ::image::guess_format(bytes).map_err(|_| not_a_picture(bytes, name))?;
    match catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, name))) {
        Ok(result) => result,
        Err(_) => Err(ImageError::Damaged {
            name: name.into(),
            format: format!("{format:?}"),
            detail: "the decoder panicked".into(),
        }),
    }
}

fn decode_as(format: ImageFormat, bytes: &[u8], name: &str) -> Result<DynamicImage, ImageError> {
    let explain = |error| explain(error, format, bytes, name);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_ALLOC);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // The dimensions are checked below, where the message can tell them.
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(explain)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(ImageError::Damaged {
            name: name.into(),
            format: format!("{format:?}"),
            detail: format!("declares {width}x{height} pixels"),
        });
    }
    if width.max(height) > MAX_EDGE
        || u64::from(width) * u64::from(height) > MAX_PIXELS
        || decoder.total_bytes() > MAX_ALLOC
    {
        return Err(too_large(name, width, height));
    }
    if format == ImageFormat::Jpeg {
        jpeg::complete(bytes)
            .map_err(|detail| ImageError::Truncated { name: name.into(), detail: detail.into() })?;
    }
    // Unreadable metadata does not spoil the picture.
    let orientation = decoder.orientation().ok();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(explain)?;
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    if matches!(picture, DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_)) {
        // The range of such samples is anybody's guess.
        return Err(ImageError::Unsupported {
            name: name.into(),
            detail: "a picture of floating point samples".into(),
        });
    }
    Ok(picture)
}

fn too_large(name: &str, width: u32, height: u32) -> ImageError {
    ImageError::TooLarge {
        name: name.into(),
        width,
        height,
        max_megapixels: MAX_PIXELS / 1_000_000,
        max_edge: MAX_EDGE,
    }
}

fn explain(error: Foreign, format: ImageFormat, bytes: &[u8], name: &str) -> ImageError {
    let name = name.to_owned();
    match error {
        Foreign::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::Truncated { name, detail: format!("{} bytes of {format:?}", bytes.len()) }
        }
        Foreign::Limits(e) => ImageError::Unsupported {
            name,
            detail: format!("a picture that needs more than 1 GiB to decode ({})", one_line(e)),
        },
        Foreign::Unsupported(e) => ImageError::Unsupported { name, detail: one_line(e) },
        other => {
            let detail = one_line(other);
            // Some decoders report the end of the data as a format error.
            let lower = detail.to_lowercase();
            if ["unexpected end", "unexpected eof", "not enough bytes"]
                .iter()
                .any(|words| lower.contains(words))
            {
                return ImageError::Truncated { name, detail };
            }
            ImageError::Damaged { name, format: format!("{format:?}"), detail }
        }
    }
}

fn not_a_picture(bytes: &[u8], name: &str) -> ImageError {
    let start = &bytes[..bytes.len().min(16)];
    let found = if start.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        format!("text that begins with {:?}", String::from_utf8_lossy(start))
    } else {
        format!(
            "begins with the bytes {}",
            start.iter().map(|b| format!("{b:02x}")).collect::<String>()
        )
    };
    ImageError::NotAPicture { name: name.into(), found }
}

/// 16-bit samples lose their low byte, as in Pillow; the library's own conversion would round.
fn to_rgb(picture: DynamicImage) -> RgbImage {
    let high = |sample: u16| (sample >> 8) as u8;
    match picture {
        DynamicImage::ImageLuma16(p) => RgbImage::from_fn(p.width(), p.height(), |x, y| {
            ::image::Rgb([high(p.get_pixel(x, y).0[0]); 3])
        }),
        DynamicImage::ImageRgb16(p) => RgbImage::from_fn(p.width(), p.height(), |x, y| {
            ::image::Rgb(p.get_pixel(x, y).0.map(high))
        }),
        other => other.into_rgb8(),
    }
}

fn to_rgba(picture: DynamicImage) -> RgbaImage {
    let high = |sample: u16| (sample >> 8) as u8;
    match picture {
        DynamicImage::ImageLumaA16(p) => RgbaImage::from_fn(p.width(), p.height(), |x, y| {
            let [grey, alpha] = p.get_pixel(x, y).0.map(high);
            ::image::Rgba([grey, grey, grey, alpha])
        }),
        DynamicImage::ImageRgba16(p) => RgbaImage::from_fn(p.width(), p.height(), |x, y| {
            ::image::Rgba(p.get_pixel(x, y).0.map(high))
        }),
        p @ (DynamicImage::ImageLuma16(_) | DynamicImage::ImageRgb16(_)) => {
            DynamicImage::ImageRgb8(to_rgb(p)).into_rgba8()
        }
        other => other.into_rgba8(),
    }
}

fn on_white(picture: &RgbaImage) -> RgbImage {
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b, alpha] = picture.get_pixel(x, y).0;
        let alpha = u32::from(alpha);
        ::image::Rgb(
            [r, g, b].map(|c| ((u32::from(c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8),
        )
    })
}
