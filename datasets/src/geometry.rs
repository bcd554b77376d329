//! Moving a picture about.

use image::{Rgba, RgbaImage};

/// An affine map of the picture about its middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine {
    /// Degrees, counter-clockwise.
    pub rotate: f32,
    /// Factor on the size.
    pub scale: f32,
    /// Factor on width over height.
    pub stretch: f32,
    /// Shift to the right and down, as a share of the side.
    pub shift: [f32; 2],
    /// Whether left and right change places.
    pub flip: bool,
}

/// The mapped picture, of the same size, bilinear; what comes from outside is transparent.
pub(crate) fn apply(picture: &RgbaImage, map: Affine) -> RgbaImage {
    let (width, height) = picture.dimensions();
    let (cx, cy) = ((width as f32 - 1.0) / 2.0, (height as f32 - 1.0) / 2.0);
    let (sin, cos) = map.rotate.to_radians().sin_cos();
    let by = 1.0 / map.scale.max(1e-3);
    let (bx, by) = (by / map.stretch.sqrt(), by * map.stretch.sqrt());
    let mirror = if map.flip { -1.0 } else { 1.0 };
    RgbaImage::from_fn(width, height, |x, y| {
        // The inverse map: where does this pixel come from?
        let dx = x as f32 - cx - map.shift[0] * width as f32;
        let dy = y as f32 - cy - map.shift[1] * height as f32;
        let sx = (cos * dx - sin * dy) * bx * mirror + cx;
        let sy = (sin * dx + cos * dy) * by + cy;
        sample(picture, sx, sy)
    })
}

/// Bilinear, on colours weighted by their opacity so that edges keep their colour.
fn sample(picture: &RgbaImage, x: f32, y: f32) -> Rgba<u8> {
    let (x0, y0) = (x.floor(), y.floor());
    let (fx, fy) = (x - x0, y - y0);
    let mut sum = [0f32; 4];
    for (ox, oy, weight) in [
        (0.0, 0.0, (1.0 - fx) * (1.0 - fy)),
        (1.0, 0.0, fx * (1.0 - fy)),
        (0.0, 1.0, (1.0 - fx) * fy),
        (1.0, 1.0, fx * fy),
    ] {
        let (px, py) = (x0 + ox, y0 + oy);
        let inside = px >= 0.0 && py >= 0.0;
        if !inside || px >= picture.width() as f32 || py >= picture.height() as f32 {
            continue;
        }
        let pixel = picture.get_pixel(px as u32, py as u32).0.map(f32::from);
        let opacity = pixel[3] * weight;
        for c in 0..3 {
            sum[c] += pixel[c] * opacity;
        }
        sum[3] += opacity;
    }
    if sum[3] < 0.5 {
        return Rgba([0; 4]);
    }
    let colour = |c: f32| (c / sum[3]).round().clamp(0.0, 255.0) as u8;
    Rgba([colour(sum[0]), colour(sum[1]), colour(sum[2]), sum[3].round().min(255.0) as u8])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: Affine =
        Affine { rotate: 0.0, scale: 1.0, stretch: 1.0, shift: [0.0; 2], flip: false };

    fn picture() -> RgbaImage {
        RgbaImage::from_fn(8, 8, |x, y| Rgba([x as u8 * 30, y as u8 * 30, 7, 255]))
    }

    #[test]
    fn moves_are_what_they_say() {
        let p = picture();
        assert_eq!(apply(&p, STILL), p);
        let flipped = apply(&p, Affine { flip: true, ..STILL });
        assert_eq!(flipped.get_pixel(0, 3), p.get_pixel(7, 3));
        let shifted = apply(&p, Affine { shift: [0.25, 0.0], ..STILL });
        assert_eq!(shifted.get_pixel(5, 2), p.get_pixel(3, 2));
        assert_eq!(shifted.get_pixel(0, 2), &Rgba([0; 4]));
        let turned = apply(&p, Affine { rotate: 90.0, ..STILL });
        // Counter-clockwise: what was on the right is on top.
        assert_eq!(turned.get_pixel(3, 0), p.get_pixel(7, 3));
    }
}
