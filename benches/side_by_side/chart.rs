//! A run as a picture: ratios to nginx tuned, a group of bars for each row of the table.
//!
//! Bars begin at 1, which is nginx tuned, and go to the left if less is used. The axis is logarithmic: half and twice as
//! much are equally far away.

use std::ops::Range;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Outcome;
use crate::contender::Contender;
use crate::report::Report;

/// What is drawn: one row of the table.
struct Group {
    name: String,
    bars: Vec<Bar>,
}

#[derive(Clone, Copy)]
struct Bar {
    contender: Contender,
    /// Above 0.
    ratio: f64,
}

/// SVG; a picture without bars if there was nothing to compare.
pub fn of(report: &Report) -> Outcome<String> {
    let contenders = report.contenders();
    let groups = report.rows().into_iter().map(|row| {
        let bar = |contender: &Contender| {
            let ratio = report.ratio(row, *contender, Contender::NginxTuned)?;
            Some(Bar {
                contender: *contender,
                ratio: ratio.median,
            })
        };
        let is_compared = |bar: &Bar| bar.contender != Contender::NginxTuned;
        Group {
            name: row.name(),
            bars: contenders
                .iter()
                .filter_map(bar)
                .filter(is_compared)
                .collect(),
        }
    });
    draw(&groups.collect::<Vec<_>>())
}

fn draw(groups: &[Group]) -> Outcome<String> {
    let mut svg = String::new();
    let slots: usize = groups.iter().map(|group| group.bars.len() + GAP).sum();
    let height = MARGIN_ABOVE + MARGIN_BELOW + u32::try_from(slots)? * BAR_HEIGHT;
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let range = range(groups);
        let mut chart = ChartBuilder::on(&area)
            .margin_top(MARGIN_ABOVE)
            .margin_right(MARGIN_RIGHT)
            .set_label_area_size(LabelAreaPosition::Left, NAMES_WIDTH)
            .set_label_area_size(LabelAreaPosition::Bottom, MARGIN_BELOW)
            .build_cartesian_2d(range.clone(), 0.0..slots.max(1) as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_labels(usize::from(range_octaves(&range)) + 1)
            .x_max_light_lines(1)
            .x_label_formatter(&|octave| format!("{}", octave.exp2()))
            .x_desc("times as much as nginx-tuned; less is better")
            .label_style(text(Pos::default()))
            .draw()?;

        // From the top down, while the axis goes up.
        let mut top = slots as f64;
        for group in groups {
            top -= GAP as f64 / 2.0;
            let middle = top - group.bars.len() as f64 / 2.0;
            let (x, y) = chart.backend_coord(&(range.start, middle));
            let right = Pos::new(HPos::Right, VPos::Center);
            area.draw(&Text::new(group.name.clone(), (x - 8, y), text(right)))?;
            for bar in &group.bars {
                let octaves = bar.ratio.log2().clamp(range.start, range.end);
                let color = color(bar.contender);
                let corners = [(0.0, top - 0.1), (octaves, top - 0.9)];
                chart.draw_series([Rectangle::new(corners, color.filled())])?;
                let (x, y) = chart.backend_coord(&(octaves.max(0.0), top - 0.5));
                let left = Pos::new(HPos::Left, VPos::Center);
                let label = format!("{:.2} {}", bar.ratio, bar.contender.name());
                area.draw(&Text::new(label, (x + 4, y), text(left)))?;
                top -= 1.0;
            }
            top -= GAP as f64 / 2.0;
        }
        let one = PathElement::new([(0.0, 0.0), (0.0, slots as f64)], BLACK.stroke_width(1));
        chart.draw_series([one])?;
        area.present()?;
    }
    Ok(svg)
}

/// Octaves of ratios from a whole one to a whole one, with room for half and for twice as much in any case.
///
/// What is further out than [`OCTAVES_MAX`] ends there, so that the others stay legible; its label says how much it is.
fn range(groups: &[Group]) -> Range<f64> {
    let octaves = || {
        let bars = groups.iter().flat_map(|group| &group.bars);
        bars.map(|bar| bar.ratio.log2())
    };
    let lowest = octaves().fold(-1.0, f64::min).floor();
    let highest = octaves().fold(1.0, f64::max).ceil();
    lowest.max(-OCTAVES_MAX)..highest.min(OCTAVES_MAX)
}

/// A whole number, since both ends are.
fn range_octaves(range: &Range<f64>) -> u16 {
    (range.end - range.start) as u16
}

fn text(pos: Pos) -> TextStyle<'static> {
    let font = ("sans-serif", 12).into_font();
    TextStyle::from(font).pos(pos).color(&BLACK)
}

fn color(contender: Contender) -> RGBColor {
    match contender {
        Contender::NginxLegacy => RGBColor(0x9a, 0x9a, 0x9a),
        Contender::NginxTuned | Contender::Direct => BLACK,
        Contender::ManaProxy => RGBColor(0xd5, 0x5e, 0x00),
        Contender::Haproxy => RGBColor(0x00, 0x72, 0xb2),
        Contender::Caddy => RGBColor(0x00, 0x9e, 0x73),
        Contender::Sozu => RGBColor(0xcc, 0x79, 0xa7),
        Contender::Relay => RGBColor(0xd9, 0xc2, 0x4a),
    }
}

/// A 16th and 16 times as much.
const OCTAVES_MAX: f64 = 4.0;
const WIDTH: u32 = 900;
const NAMES_WIDTH: u32 = 160;
const MARGIN_ABOVE: u32 = 10;
const MARGIN_BELOW: u32 = 50;
/// For the label of the longest bar.
const MARGIN_RIGHT: u32 = 130;
const BAR_HEIGHT: u32 = 15;
/// Between two groups, in bars.
const GAP: usize = 1;

#[cfg(test)]
#[allow(dead_code, unused_imports, clippy::unwrap_used)]
mod tests {
    use super::*;

    fn group(name: &str, ratios: &[f64]) -> Group {
        let bars = ratios.iter().zip(Contender::ALL);
        Group {
            name: name.to_owned(),
            bars: bars
                .map(|(ratio, contender)| Bar {
                    contender,
                    ratio: *ratio,
                })
                .collect(),
        }
    }

    #[test]
    fn every_bar_has_its_name_and_its_ratio() {
        let groups = [group("h1", &[0.5, 129.0, 4.4]), group("h2", &[1.25])];
        let svg = draw(&groups).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for said in [
            "h1",
            "h2",
            "0.50 nginx-legacy",
            "129.00 nginx-tuned",
            "4.40 mana-proxy",
            "1.25 nginx-legacy",
        ] {
            assert_eq!(
                svg.matches(&format!("\n{said}\n")).count(),
                1,
                "{said}: {svg}"
            );
        }
    }

    #[test]
    fn names_cannot_break_the_picture() {
        let svg = draw(&[group("<a & b>", &[2.0])]).unwrap();
        assert!(svg.contains("&lt;a &amp; b&gt;") && !svg.contains("<a &"));
    }

    #[test]
    fn the_axis_has_room_for_all_and_for_one_even_without_any() {
        assert_eq!(range(&[]), -1.0..1.0);
        assert_eq!(range(&[group("h1", &[0.2, 5.0])]), -3.0..3.0);
        assert_eq!(range(&[group("h1", &[0.001, 129.0])]), -4.0..4.0);
        assert!(draw(&[]).is_ok());
    }
}
