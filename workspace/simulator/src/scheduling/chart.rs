//! Lines over time as SVG: one panel below the other, with the same axis of time.

use std::fmt::Write as _;

/// Width of a panel's field, its height, and the distance from one panel's top to the next, pixels.
const FIELD_WIDTH: f64 = 700.0;
const FIELD_HEIGHT: f64 = 120.0;
pub(super) const PANEL_HEIGHT: f64 = FIELD_HEIGHT + 60.0;
/// Left of the field is room for numbers, right of it for the legend.
pub(super) const LEFT: f64 = 70.0;
pub(super) const WIDTH: f64 = LEFT + FIELD_WIDTH + 190.0;
/// Lines share a panel when the highest of one is at most so many times that of another.
const SCALE_RATIO_MAX: f64 = 25.0;
/// Lines in a legend; more find no room.
const LEGEND_LINES_MAX: usize = 8;

/// Eight colours that differ for every eye; of Okabe and Ito's, the yellow darkened for a white ground.
pub(super) const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#b8a400", "#e69f00"];

/// A line: a value for each bucket of time. Not a number, where there is none: the line goes on to the next one.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) colour: &'static str,
    pub(super) values: Vec<f64>,
}

impl Line {
    fn highest(&self) -> f64 {
        self.values.iter().copied().fold(0.0, f64::max)
    }
}

/// Some lines of one unit.
#[derive(Debug)]
pub(super) struct Panel {
    /// What it shows, with the unit.
    pub(super) title: String,
    /// Only whole numbers stand at the axis.
    pub(super) is_whole: bool,
    pub(super) lines: Vec<Line>,
}

/// The axis of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    pub(super) bucket_ms: u64,
    pub(super) end_ms: u64,
}

impl Panel {
    /// Lines that would lie on the ground beside the highest one get a panel of their own.
    pub(super) fn split(self) -> Vec<Self> {
        let highest = self.lines.iter().map(Line::highest).fold(0.0, f64::max);
        let is_large = |line: &Line| line.highest() * SCALE_RATIO_MAX >= highest;
        let (large, small): (Vec<Line>, Vec<Line>) = self.lines.into_iter().partition(is_large);
        let rest = Self { title: format!("{} (smaller)", self.title), is_whole: self.is_whole, lines: small };
        let first = Self { title: self.title, is_whole: self.is_whole, lines: large };
        if rest.lines.iter().all(|line| line.highest() == 0.0) { vec![first] } else { vec![first, rest] }
    }

    /// Draws it with its top there.
    pub(super) fn draw(&self, svg: &mut String, top: f64, time: Time) {
        let (field_top, bottom) = (top + 22.0, top + 22.0 + FIELD_HEIGHT);
        let end_ms = time.end_ms.max(1) as f64;
        let across = |ms: f64| LEFT + (ms / end_ms).clamp(0.0, 1.0) * FIELD_WIDTH;
        text(svg, LEFT, top + 14.0, "font-weight=\"bold\"", &self.title);
        let (unit_ms, unit) = unit_of(time.end_ms);
        for tick in ticks(end_ms / unit_ms, 0.0).into_iter().filter(|tick| tick * unit_ms <= end_ms) {
            let x = across(tick * unit_ms);
            grid(svg, &format!("M{x:.1} {field_top:.1}V{bottom:.1}"));
            text(svg, x, bottom + 15.0, "text-anchor=\"middle\"", &format!("{} {unit}", number(tick)));
        }
        let highest = self.lines.iter().map(Line::highest).fold(0.0, f64::max);
        let ticks = ticks(if highest > 0.0 { highest } else { 1.0 }, if self.is_whole { 1.0 } else { 0.0 });
        let highest = ticks.last().copied().unwrap_or(1.0);
        let upwards = |value: f64| bottom - value / highest * FIELD_HEIGHT;
        for tick in &ticks {
            let y = upwards(*tick);
            grid(svg, &format!("M{LEFT} {y:.1}H{:.1}", LEFT + FIELD_WIDTH));
            text(svg, LEFT - 8.0, y + 4.0, "text-anchor=\"end\"", &number(*tick));
        }
        for line in &self.lines {
            let points =
                line.values.iter().enumerate().filter(|(_, value)| !value.is_nan()).map(|(at, value)| {
                    let middle_ms = (at as f64 + 0.5) * time.bucket_ms as f64;
                    format!("{:.1},{:.1}", across(middle_ms), upwards(*value))
                });
            let points: Vec<String> = points.collect();
            // Writing to a String cannot fail.
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>",
                points.join(" "),
                line.colour
            );
        }
        self.legend(svg, field_top);
    }

    fn legend(&self, svg: &mut String, top: f64) {
        let left = LEFT + FIELD_WIDTH + 14.0;
        for (at, line) in self.lines.iter().take(LEGEND_LINES_MAX).enumerate() {
            let y = top + 6.0 + at as f64 * 15.0;
            let _ = writeln!(
                svg,
                "<path d=\"M{left} {y:.1}h16\" stroke=\"{}\" stroke-width=\"2.5\"/>",
                line.colour
            );
            text(svg, left + 22.0, y + 4.0, "", &line.name);
        }
    }
}

/// A line of text.
pub(super) fn text(svg: &mut String, x: f64, y: f64, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{words}</text>");
}

fn grid(svg: &mut String, path: &str) {
    let _ = writeln!(svg, "<path d=\"{path}\" stroke=\"#e4e4e4\"/>");
}

/// From 0 to the value or a little beyond, in up to eight round steps.
fn ticks(highest: f64, step_min: f64) -> Vec<f64> {
    let rough = (highest / 7.0).max(step_min);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let mut ticks = vec![0.0];
    while ticks.last().is_some_and(|last| *last < highest - step * 1e-9) {
        ticks.push(ticks.len() as f64 * step);
    }
    ticks
}

/// The largest unit of which the time has two at least.
fn unit_of(ms: u64) -> (f64, &'static str) {
    match ms {
        0..2_000 => (1.0, "ms"),
        2_000..300_000 => (1e3, "s"),
        300_000..18_000_000 => (6e4, "min"),
        _ => (3.6e6, "h"),
    }
}

fn number(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    if rounded >= 1e5 { format!("{:.0}k", rounded / 1e3) } else { format!("{rounded}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_highest_value() {
        for (highest, wanted) in [(1.0, 0.2), (7.0, 1.0), (99_000.0, 20_000.0), (0.03, 0.005)] {
            let ticks = ticks(highest, 0.0);
            assert!((ticks[1] - wanted).abs() < 1e-9, "{highest}: {ticks:?}");
            assert!((4..=9).contains(&ticks.len()) && ticks[ticks.len() - 1] >= highest - 1e-9, "{ticks:?}");
        }
    }

    #[test]
    fn what_is_counted_has_whole_numbers_at_its_axis() {
        assert_eq!(ticks(2.0, 1.0), [0.0, 1.0, 2.0]);
    }

    #[test]
    fn lines_of_another_scale_get_a_panel_of_their_own() {
        let line = |highest| Line { name: format!("{highest}"), colour: COLOURS[0], values: vec![highest] };
        let panel = Panel {
            title: "rate".into(),
            is_whole: false,
            lines: vec![line(200.0), line(0.2), line(9.0), line(0.0)],
        };
        let names: Vec<Vec<String>> = panel
            .split()
            .into_iter()
            .map(|panel| panel.lines.into_iter().map(|line| line.name).collect())
            .collect();
        assert_eq!(names, [vec!["200", "9"], vec!["0.2", "0"]]);
    }

    #[test]
    fn a_panel_has_a_line_and_a_name_in_the_legend_for_each_series() {
        let line = |name: &str| Line { name: name.into(), colour: COLOURS[0], values: vec![0.0, 5.0, 2.5] };
        let panel = Panel { title: "a < b".into(), is_whole: false, lines: vec![line("fast"), line("slow")] };
        let mut svg = String::new();
        panel.draw(&mut svg, 0.0, Time { bucket_ms: 1_000, end_ms: 3_000 });
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains(">slow</text>") && svg.contains(">a &lt; b</text>"), "{svg}");
        // The highest value is the highest tick, and stands at the top of the field.
        assert!(svg.contains(",22.0"), "{svg}");
    }
}
