//! The curve as a picture: share of the living to the right, octets written for each that came upwards.

use std::fmt::Write as _;

use super::AmplificationRow;

/// An SVG with a point for each row.
pub(super) fn plot(rows: &[AmplificationRow]) -> String {
    const WIDTH: f64 = 560.0;
    const HEIGHT: f64 = 320.0;
    const LEFT: f64 = 50.0;
    const TOP: f64 = 30.0;
    let highest = rows.iter().map(|row| row.amplification).fold(2.0, f64::max).ceil();
    let place = |row: &AmplificationRow| {
        (LEFT + row.living_percent / 70.0 * WIDTH, TOP + HEIGHT - row.amplification / highest * HEIGHT)
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\">octets written for each octet that came, by the share of the log that lives</text>\n",
        WIDTH + LEFT + 30.0,
        HEIGHT + TOP + 40.0
    );
    // Writing to a String cannot fail.
    for percent in [0, 10, 20, 30, 40, 50, 60, 70] {
        let x = LEFT + f64::from(percent) / 70.0 * WIDTH;
        let _ = writeln!(
            text,
            "<path d=\"M{x:.1} {TOP}V{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\">{percent} %</text>",
            TOP + HEIGHT,
            x - 10.0,
            TOP + HEIGHT + 18.0
        );
    }
    let mut level = 0.0;
    while level <= highest {
        let y = TOP + HEIGHT - level / highest * HEIGHT;
        let _ = writeln!(
            text,
            "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"20\" y=\"{:.1}\">{level:.0}</text>",
            LEFT + WIDTH,
            y + 4.0
        );
        level += 1.0;
    }
    let points: Vec<String> = rows.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>",
        points.join(" ")
    );
    for row in rows {
        let (x, y) = place(row);
        let _ = writeln!(
            text,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#06c\"/><text x=\"{:.1}\" y=\"{:.1}\">{:.2}</text>",
            x - 10.0,
            y - 8.0,
            row.amplification
        );
    }
    text.push_str("</svg>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_has_a_point_for_each_row() {
        let row = |living_percent, amplification| AmplificationRow {
            living_percent,
            amplification,
            messages_per_s: 1.0,
            longest_ms: 1.0,
            refused: 0,
        };
        let plot = plot(&[row(0.0, 1.0), row(50.0, 2.5)]);
        assert_eq!(plot.matches("<circle").count(), 2);
        assert!(plot.contains(">2.50</text>") && plot.ends_with("</svg>\n"));
    }
}
