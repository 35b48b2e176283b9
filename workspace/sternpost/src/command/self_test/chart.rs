//! Throughput by concurrency as a picture (SVG 1.1): what was measured, the law through it, the chosen point and why.

use crate::output;
use crate::profile::{Profile, Transfer};
use std::fmt::Write as _;
use sternpost_scheduler::self_test::Law;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 460.0;
/// The corners of the field of the curve.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 690.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 340.0;
/// Steps of the law's line: so many that it looks round.
const STEPS: u32 = 120;
/// Lines across, with a number each.
const GRID_COUNT: u32 = 5;
/// Characters of a sentence that stand side by side.
const SENTENCE_COLUMNS: usize = 100;

/// The picture. Where nothing was transferred it says so.
pub(super) fn svg(profile: &Profile) -> String {
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>Throughput by concurrency</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    text(&mut out, (LEFT, 26.0), "start", &format!("{}, {}", profile.queue.display(), profile.measured_at));
    match profile.transfer.as_ref().filter(|transfer| !transfer.points.is_empty()) {
        Some(transfer) => {
            let scale = Scale::of(transfer);
            let what = format!(
                "messages/s of {} octets, durable by {}, by associations at work",
                transfer.message_octets, transfer.method
            );
            text(&mut out, (LEFT, 46.0), "start", &what);
            axes(&mut out, transfer, &scale);
            curve(&mut out, transfer, &scale);
        }
        None => text(&mut out, (LEFT, TOP), "start", "No mail was transferred."),
    }
    out.push_str("</svg>\n");
    out
}

/// Where a point of the curve lies. Concurrency doubles at equal steps.
struct Scale {
    associations_max: f64,
    per_s_max: f64,
}

impl Scale {
    fn of(transfer: &Transfer) -> Self {
        let associations = transfer.points.iter().map(|point| f64::from(point.associations));
        let rates = transfer.points.iter().map(|point| point.per_s);
        let rate = rates.chain(transfer.choice.iter().map(|choice| choice.per_s)).fold(1.0, f64::max);
        // The next number with one digit, or two.
        let step = 10_f64.powf(rate.log10().floor()) / 2.0;
        Self { associations_max: associations.fold(2.0, f64::max), per_s_max: (rate / step).ceil() * step }
    }

    fn x(&self, associations: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * associations.max(1.0).log2() / self.associations_max.log2()
    }

    fn y(&self, per_s: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * (per_s / self.per_s_max).clamp(0.0, 1.0)
    }
}

fn axes(out: &mut String, transfer: &Transfer, scale: &Scale) {
    for line in 0..=GRID_COUNT {
        let per_s = scale.per_s_max * f64::from(line) / f64::from(GRID_COUNT);
        let y = scale.y(per_s);
        let _ = writeln!(out, "<path d=\"M{LEFT:.1} {y:.1}H{RIGHT:.1}\" stroke=\"#ddd\"/>");
        text(out, (LEFT - 8.0, y + 4.0), "end", &format!("{per_s:.0}"));
    }
    for point in &transfer.points {
        let x = scale.x(f64::from(point.associations));
        text(out, (x, BOTTOM + 20.0), "middle", &point.associations.to_string());
    }
}

fn curve(out: &mut String, transfer: &Transfer, scale: &Scale) {
    if let Some(law) = transfer.law {
        let law =
            Law { lambda: law.lambda_per_s, sigma: law.sigma, kappa: law.kappa, residual: law.residual };
        let at = |step: u32| {
            let associations = scale.associations_max.powf(f64::from(step) / f64::from(STEPS));
            format!("{:.1},{:.1}", scale.x(associations), scale.y(law.per_s(associations)))
        };
        let line: Vec<String> = (0..=STEPS).map(at).collect();
        let _ = writeln!(
            out,
            "<polyline class=\"law\" points=\"{}\" fill=\"none\" stroke=\"#2563a8\" stroke-width=\"2\"/>",
            line.join(" ")
        );
    }
    if let Some(choice) = &transfer.choice {
        let (x, y) = (scale.x(f64::from(choice.associations)), scale.y(choice.per_s));
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {TOP:.1}V{BOTTOM:.1}\" stroke=\"#b3261e\" stroke-dasharray=\"4 4\"/>"
        );
        let _ = writeln!(
            out,
            "<circle class=\"chosen\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"8\" fill=\"none\" stroke=\"#b3261e\" stroke-width=\"2\"/>"
        );
        let said = format!(
            "Chosen: {} at a time, {:.0}/s ({}). {}.",
            choice.associations, choice.per_s, choice.rule, choice.reason
        );
        for (line, words) in (0_u8..).zip(output::wrapped(&said, SENTENCE_COLUMNS)) {
            text(out, (20.0, BOTTOM + 54.0 + 18.0 * f64::from(line)), "start", &words);
        }
    }
    for point in &transfer.points {
        let _ = writeln!(
            out,
            "<circle class=\"measured\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{} at a time: {:.0}/s</title></circle>",
            scale.x(f64::from(point.associations)),
            scale.y(point.per_s),
            point.associations,
            point.per_s
        );
    }
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let _ =
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(words));
}

/// A path may hold anything; what XML 1.0 cannot hold at all is shown as on a terminal.
fn escaped(words: &str) -> String {
    output::printable(words).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{self, Choice, TransferPoint};
    use std::path::Path;

    fn transferred(rates: &[f64], law: Option<profile::Law>) -> Profile {
        let points = (0..).zip(rates).map(|(step, per_s)| TransferPoint {
            associations: 1 << step,
            per_s: *per_s,
            batch_messages: 1.5,
        });
        let choice = Choice {
            associations: 2,
            per_s: rates[1],
            rule: "knee".into(),
            reason: "more than <2> & so on".into(),
        };
        let transfer = Transfer {
            message_octets: 4_096,
            method: "dsync".into(),
            points: points.collect(),
            law,
            choice: Some(choice),
        };
        Profile { transfer: Some(transfer), ..profile::tests::example(Path::new("/a<b>&\u{1b}[2J\"log")) }
    }

    #[test]
    fn each_point_the_law_and_the_choice_stand_in_the_picture() {
        let law = profile::Law { lambda_per_s: 1_000.0, sigma: 0.1, kappa: 0.01, residual: 0.01 };
        let drawn = svg(&transferred(&[1_000.0, 1_700.0, 2_300.0], Some(law)));
        assert_eq!(drawn.matches("class=\"measured\"").count(), 3);
        assert_eq!(
            (drawn.matches("class=\"law\"").count(), drawn.matches("class=\"chosen\"").count()),
            (1, 1)
        );
        // 2,300 lies below 2,500, the top of the field, and 4 associations at its right end.
        assert!(drawn.contains("cx=\"690.0\" cy=\"82.4\" r=\"4\"><title>4 at a time: 2300/s"), "{drawn}");
        assert!(
            drawn.contains("Chosen: 2 at a time, 1700/s (knee). more than &lt;2&gt; &amp; so on."),
            "{drawn}"
        );
        assert!(drawn.contains("/a&lt;b&gt;&amp;\\u{1b}[2J\"log, 2026"), "{drawn}");
        assert!(svg(&transferred(&[1_000.0, 1_700.0], None)).find("class=\"law\"").is_none());
    }

    #[test]
    fn odd_figures_give_a_picture_all_the_same() {
        for rates in [[0.001, 0.001], [1e12, 1.0], [1.0, 1e-300]] {
            let drawn = svg(&transferred(&rates, None));
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        }
        let nothing = Profile { transfer: None, ..transferred(&[1.0, 2.0], None) };
        assert!(svg(&nothing).contains("No mail was transferred."));
    }
}
