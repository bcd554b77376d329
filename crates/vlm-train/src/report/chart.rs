//! Line charts as SVG.

use super::html::escape;
use super::ticks::Axis;

/// One line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// Points as (x, y), in the order of x.
    pub points: Vec<(f64, f64)>,
}

/// The view box, and the plot inside it.
pub(super) const WIDTH: f64 = 560.0;
pub(super) const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 42.0;

/// Beyond this a chart could not subtract two values any more; it counts as infinite.
const LARGEST: f64 = 1e150;
/// A plot is some 500 pixels wide: more slices than this cannot be seen and make the page heavy.
const SLICES: usize = 400;
/// More points than this are drawn faintly, under a line of their means in as many slices:
/// single steps are noisy, and the trend is what is looked for.
const TREND: usize = 120;
/// Up to so many points are drawn as dots with their values as tool tips.
const DOTS: usize = 60;
/// Colours in the style sheet; the next series begins again, dashed.
const COLOURS: usize = 6;

pub(super) fn draw(title: &str, x_label: &str, y_label: &str, series: &[Series]) -> String {
    let usable: Vec<Vec<(f64, f64)>> = series.iter().map(|s| finite(&s.points)).collect();
    let all = || usable.iter().flatten();
    let x = Axis::over(all().map(|point| point.0), 0.0, 6);
    let y = Axis::over(all().map(|point| point.1), 0.05, 7);

    let mut html = format!("<figure>\n<figcaption>{}</figcaption>\n", escape(title));
    html += &legend(series, &usable);
    html += &format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
        escape(title)
    );
    html += &axes(&x, &y, x_label, y_label);
    for (index, points) in usable.iter().enumerate() {
        html += &line(index, points, &x, &y);
    }
    if all().next().is_none() {
        let (middle, centre) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT / 2.0);
        html += &format!("<text x=\"{middle}\" y=\"{centre}\" class=\"middle\">no data</text>\n");
    }
    html + "</svg>\n</figure>\n"
}

fn finite(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points.iter().copied().filter(|(x, y)| x.abs() <= LARGEST && y.abs() <= LARGEST).collect()
}

fn across(x: &Axis, value: f64) -> f64 {
    LEFT + x.part(value) * (WIDTH - LEFT - RIGHT)
}

fn down(y: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - y.part(value) * (HEIGHT - TOP - BOTTOM)
}

fn style(index: usize) -> String {
    let dashed = if index / COLOURS % 2 == 1 { " dashed" } else { "" };
    format!("s{}{dashed}", index % COLOURS)
}

/// The names with the newest values, as text: it wraps where a drawing could not.
fn legend(series: &[Series], usable: &[Vec<(f64, f64)>]) -> String {
    let mut html = String::from("<ul class=\"legend\">\n");
    for (index, (series, points)) in series.iter().zip(usable).enumerate() {
        let newest = points.last().map(|point| format!(" <b>{}</b>", value(point.1)));
        html += &format!(
            "<li><svg class=\"key\" viewBox=\"0 0 22 8\"><line class=\"{}\" x1=\"0\" x2=\"22\" y1=\"4\" y2=\"4\"/></svg>{}{}</li>\n",
            style(index),
            escape(&series.name),
            newest.unwrap_or_default()
        );
    }
    html + "</ul>\n"
}

fn axes(x: &Axis, y: &Axis, x_label: &str, y_label: &str) -> String {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut svg = String::new();
    for (value, label) in &y.ticks {
        let at = down(y, *value);
        svg += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"end\" x=\"{}\" y=\"{:.1}\">{label}</text>\n",
            LEFT - 8.0,
            at + 4.0
        );
    }
    for (value, label) in &x.ticks {
        let at = across(x, *value);
        svg += &format!(
            "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{}\"/>\
             <text class=\"middle\" x=\"{at:.1}\" y=\"{}\">{label}</text>\n",
            bottom + 5.0,
            bottom + 18.0
        );
    }
    svg += &format!(
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\n\
         <text class=\"label\" x=\"4\" y=\"14\">{}</text>\n\
         <text class=\"label end\" x=\"{right}\" y=\"{}\">{}</text>\n",
        escape(y_label),
        HEIGHT - 6.0,
        escape(x_label)
    );
    svg
}

fn line(index: usize, points: &[(f64, f64)], x: &Axis, y: &Axis) -> String {
    let class = style(index);
    let polyline = |points: &[(f64, f64)], class: &str| {
        let places: Vec<String> = points
            .iter()
            .map(|point| format!("{:.1},{:.1}", across(x, point.0), down(y, point.1)))
            .collect();
        format!("<polyline class=\"{class}\" points=\"{}\"/>\n", places.join(" "))
    };
    let mut svg = String::new();
    if points.len() > TREND {
        svg += &polyline(&thin(points, x), &format!("{class} faint"));
        svg += &polyline(&means(points, x), &class);
    } else if points.len() > 1 {
        svg += &polyline(points, &class);
    }
    if points.len() <= DOTS {
        for point in points {
            svg += &format!(
                "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"><title>{}: {}</title></circle>\n",
                across(x, point.0),
                down(y, point.1),
                value(point.0),
                value(point.1)
            );
        }
    }
    svg
}

fn slices<'a>(
    points: &'a [(f64, f64)],
    x: &'a Axis,
    count: usize,
) -> impl Iterator<Item = &'a [(f64, f64)]> {
    // The end of the axis belongs to the last slice: alone it would be no mean but noise.
    let slice =
        move |point: &(f64, f64)| ((x.part(point.0) * count as f64) as usize).min(count - 1);
    points.chunk_by(move |a, b| slice(a) == slice(b))
}

fn means(points: &[(f64, f64)], x: &Axis) -> Vec<(f64, f64)> {
    let mean = |group: &[(f64, f64)], of: fn(&(f64, f64)) -> f64| {
        // Divided first: the sum of the largest that are drawn could leave the range.
        group.iter().map(|point| of(point) / group.len() as f64).sum()
    };
    slices(points, x, TREND).map(|group| (mean(group, |p| p.0), mean(group, |p| p.1))).collect()
}

/// Of many points, the lowest and the highest in each slice: peaks stay visible.
fn thin(points: &[(f64, f64)], x: &Axis) -> Vec<(f64, f64)> {
    if points.len() <= 2 * SLICES {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(2 * SLICES + 2);
    for group in slices(points, x, SLICES) {
        let (mut low, mut high) = (0, 0);
        for (at, point) in group.iter().enumerate() {
            if point.1 < group[low].1 {
                low = at;
            }
            if point.1 > group[high].1 {
                high = at;
            }
        }
        kept.push(group[low.min(high)]);
        if low != high {
            kept.push(group[low.max(high)]);
        }
    }
    kept
}

/// A value in four significant digits, without trailing zeros.
fn value(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e7).contains(&size) {
        return format!("{value:.3e}");
    }
    let decimals = if size >= 1000.0 || size == 0.0 { 0 } else { 3 - size.log10().floor() as i32 };
    let text = format!("{value:.*}", usize::try_from(decimals).unwrap_or(0));
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_peaks_ends_and_order() {
        let mut points: Vec<(f64, f64)> =
            (0..100_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        points[54_321].1 = 1000.0;
        points[54_325].1 = -1000.0;
        let x = Axis::over(points.iter().map(|point| point.0), 0.0, 5);
        let thin = thin(&points, &x);
        assert!(thin.len() <= 2 * SLICES + 2, "{}", thin.len());
        assert!(thin.contains(&(54_321.0, 1000.0)) && thin.contains(&(54_325.0, -1000.0)));
        assert!(thin.is_sorted_by(|a, b| a.0 < b.0));
        assert!(thin[0].0 < 250.0 && thin[thin.len() - 1].0 > 99_700.0);
    }

    #[test]
    fn means_follow_the_middle_of_the_noise() {
        let points: Vec<(f64, f64)> =
            (0..1200).map(|i| (f64::from(i), f64::from(10 * (i / 10) + i % 2))).collect();
        let x = Axis::over(points.iter().map(|point| point.0), 0.0, 5);
        let means = means(&points, &x);
        assert!((TREND..=TREND + 1).contains(&means.len()), "{}", means.len());
        for (at, mean) in &means[..TREND - 1] {
            assert!((at - mean).abs() < 6.0, "{mean} at {at}");
        }
    }

    #[test]
    fn values_have_four_digits() {
        let cases = [
            (3.0, "3"),
            (0.12345, "0.1235"),
            (1234.56, "1235"),
            (0.0001, "1.000e-4"),
            (100.0, "100"),
        ];
        for (number, want) in cases {
            assert_eq!(value(number), want);
        }
    }

    #[test]
    fn the_low_end_is_at_the_bottom_left() {
        let axis = Axis::over([0.0, 1.0].into_iter(), 0.0, 5);
        assert_eq!((across(&axis, 0.0), across(&axis, 1.0)), (LEFT, WIDTH - RIGHT));
        assert_eq!((down(&axis, 0.0), down(&axis, 1.0)), (HEIGHT - BOTTOM, TOP));
    }
}
