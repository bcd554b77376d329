use super::*;

const NASTY: &str = "<script>alert(\"x\")</script> & 'y' \u{0} ends </title>";

fn line(name: &str, points: &[(f64, f64)]) -> Series {
    Series { name: name.to_owned(), points: points.to_vec() }
}

/// A page with everything, all of it written by someone who means harm.
fn nasty() -> String {
    let card = Card {
        image_png: b"\x89PNG".to_vec(),
        caption: NASTY.into(),
        lines: vec![
            (NASTY.into(), Some(0.25), true),
            ("b".into(), Some(f32::NAN), false),
            ("c".into(), Some(7.0), false),
            ("d".into(), None, false),
        ],
        more: vec![b"\x89PNG".to_vec(), Vec::new()],
    };
    Report::new(NASTY)
        .facts(&[(NASTY, NASTY)])
        .curve(NASTY, NASTY, NASTY, &[line(NASTY, &[(0.0, 1.0), (1.0, 2.0)]), line("empty", &[])])
        .curve("nothing", "", "", &[])
        .table(NASTY, &[NASTY], &[vec![NASTY.into()], vec![], vec!["1".into(), "2".into()]], NASTY)
        .gallery(NASTY, NASTY, &[card, Card::default()])
        .render()
}

/// Walks over the tags; each that opens must close, in order.
fn check_balance(page: &str) -> usize {
    let mut open = Vec::new();
    let mut tags = 0;
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag does not end");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        tags += 1;
        let name: String =
            tag.trim_start_matches('/').chars().take_while(|c| c.is_alphanumeric()).collect();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(
                open.pop().as_deref(),
                Some(closed),
                "closed out of order after {tags} tags"
            );
        } else if !tag.ends_with('/')
            && !["!DOCTYPE html"].contains(&tag)
            && !["meta", "img"].contains(&name.as_str())
        {
            assert!(!name.is_empty(), "a stray <: {tag:.40}");
            open.push(name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    tags
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_runs_nothing() {
    let page = nasty();
    for outside in
        ["http:", "https:", "//", "url(", "@import", "<link", "<script", "javascript", "onload"]
    {
        assert!(!page.contains(outside), "{outside}");
    }
    for source in page.split("src=\"").skip(1) {
        assert!(source.starts_with("data:image/png;base64,"), "{source:.40}");
    }
    assert!(page.contains("data:image/png;base64,iVBORw==\""), "base64 of the four bytes");
}

#[test]
fn text_is_shown_and_not_interpreted() {
    let page = nasty();
    let shown = "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &#39;y&#39; \u{fffd} ends &lt;/title&gt;";
    // Title twice, fact twice, chart (heading, label, two axes, legend), table (heading, header,
    // cell, note), gallery (heading, note, caption, alternative text, line).
    assert_eq!(page.matches(shown).count(), 18);
    assert_eq!(page.matches("alert(").count(), 18);
    assert!(!page.contains('\0'));
}

#[test]
fn tags_are_balanced() {
    assert!(check_balance(&nasty()) > 100);
    assert!(check_balance(&Report::new("").render()) > 10);
    let twice = [line("a", &[(0.0, 0.0)])];
    let charts_last = Report::new("")
        .curve("", "", "", &twice)
        .facts(&[("a", 1)])
        .curve("", "", "", &twice)
        .render();
    check_balance(&charts_last);
    assert_eq!(charts_last.matches("class=\"charts\"").count(), 2);
}

/// The points of every polyline and circle.
fn places(page: &str) -> Vec<(f64, f64)> {
    let number = |text: &str| text.parse::<f64>().unwrap();
    let mut places = Vec::new();
    for part in page.split("points=\"").skip(1) {
        for point in part.split('"').next().unwrap().split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            places.push((number(x), number(y)));
        }
    }
    for part in page.split("cx=\"").skip(1) {
        let fields: Vec<&str> = part.split('"').collect();
        places.push((number(fields[0]), number(fields[2])));
    }
    places
}

#[test]
fn points_lie_inside_the_view_box_whatever_they_are() {
    let odd = [
        (f64::NAN, 1.0),
        (1.0, f64::NAN),
        (2.0, f64::INFINITY),
        (f64::NEG_INFINITY, 3.0),
        (4.0, f64::MAX),
        (5.0, -1e149),
        (6.0, 1e149),
        (7.0, 0.0),
    ];
    let page = Report::new("").curve("", "", "", &[line("odd", &odd)]).render();
    let seen = places(&page);
    assert_eq!(seen.len(), 6, "three usable points, on the line and as dots: {seen:?}");
    for (x, y) in seen {
        assert!((0.0..=chart::WIDTH).contains(&x) && (0.0..=chart::HEIGHT).contains(&y), "{x} {y}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn a_larger_value_is_drawn_higher_and_a_later_one_to_the_right() {
    let page = Report::new("").curve("", "", "", &[line("a", &[(0.0, 1.0), (10.0, 5.0)])]).render();
    let seen = places(&page);
    assert!(seen[0].0 < seen[1].0 && seen[0].1 > seen[1].1, "{seen:?}");
}

#[test]
fn charts_without_points_say_so_and_one_point_is_a_dot() {
    let chart =
        |points: &[(f64, f64)]| Report::new("").curve("", "", "", &[line("a", points)]).render();
    assert!(chart(&[]).contains("no data") && chart(&[(1.0, f64::NAN)]).contains("no data"));
    let one = chart(&[(1.0, 1.0)]);
    assert!(!one.contains("no data") && one.matches("<circle").count() == 1);
}

#[test]
fn numbers_stand_to_the_right_and_words_do_not() {
    for number in ["1", "-1.5", "93.1 %", "12.1 ± 0.3", "1e-3"] {
        assert!(is_number(number), "{number}");
    }
    for word in ["", "a", "1 a", "±", "-"] {
        assert!(!is_number(word), "{word}");
    }
    let page =
        Report::new("").table("", &["name", "value"], &[vec!["a".into(), "2".into()]], "").render();
    assert!(page.contains("<th>name</th><th class=\"number\">value</th>"), "{page}");
    assert!(page.contains("<td>a</td><td class=\"number\">2</td>"), "{page}");
}

#[test]
fn bars_show_probabilities_within_bounds() {
    let page = nasty();
    let bars: Vec<&str> =
        page.split("style=\"width:").skip(1).map(|part| part.split('"').next().unwrap()).collect();
    assert_eq!(bars, ["25.0%", "100.0%"], "none for NaN and for a line without");
}
