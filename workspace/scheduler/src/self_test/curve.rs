//! How throughput grows with concurrency: the Universal Scalability Law (N. J. Gunther, *Guerrilla Capacity Planning*,
//! 2007) fitted to what was measured, and the point that is chosen on it.
//!
//! The law says that X(N) = λN / (1 + σ(N − 1) + κN(N − 1)): σ is the share of the work that goes one after the other, κ
//! what each costs each other one. Beyond N\* = √((1 − σ)/κ) more concurrency gives less throughput.

use super::Derived;

/// What was measured at one level of concurrency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Associations at work at a time.
    pub associations: u32,
    /// Messages a second of all of them together.
    pub per_s: f64,
}

/// The law's parameters, and how well it says what was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Law {
    /// λ: messages a second of one association.
    pub lambda: f64,
    /// σ: contention, 0 to 1.
    pub sigma: f64,
    /// κ: coherence, 0 or more.
    pub kappa: f64,
    /// The root of the mean square of the relative errors.
    pub residual: f64,
}

/// The point at which the machine works best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Associations at work at a time.
    pub associations: u32,
    /// Messages a second there.
    pub per_s: f64,
    /// Why there.
    pub rule: Rule,
}

/// Why a point is the chosen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The law's knee.
    Knee,
    /// The law holds and has no knee within what was measured: the highest level.
    Highest,
    /// The law does not hold: the smallest level that reaches [`SHARE_OF_BEST`].
    Share,
}

impl Rule {
    /// As it is called in a profile.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Knee => "knee",
            Self::Highest => "highest",
            Self::Share => "share",
        }
    }
}

/// Without a valid law, so much of the best throughput is enough.
pub const SHARE_OF_BEST: f64 = 0.95;
/// A law that errs by more than this, as the root of the mean square, says nothing.
const RESIDUAL_MAX: f64 = 0.10;
/// Three parameters go through any three points.
const POINTS_MIN: usize = 4;

/// What was measured, the law if it holds, and the chosen point.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// By rising concurrency, each level once. At least one.
    pub points: Vec<Point>,
    /// None when it does not hold.
    pub law: Option<Law>,
    /// The point, and the sentence that says why it is not another.
    pub choice: Derived<Choice>,
}

impl Curve {
    /// Fits and chooses. Of a level that stands there twice the better one counts; what is no number, or no throughput,
    /// does not. None when nothing is left.
    #[must_use]
    pub fn of(points: &[Point]) -> Option<Self> {
        let is_sound =
            |point: &&Point| point.associations > 0 && point.per_s.is_finite() && point.per_s > 0.0;
        let mut points: Vec<Point> = points.iter().filter(is_sound).copied().collect();
        points.sort_by(|a, b| a.associations.cmp(&b.associations).then(b.per_s.total_cmp(&a.per_s)));
        points.dedup_by_key(|point| point.associations);
        let law = Law::of(&points);
        let choice = choose(&points, law)?;
        Some(Self { points, law, choice })
    }

    /// The best throughput that was measured.
    #[must_use]
    pub fn per_s_max(&self) -> f64 {
        best(&self.points)
    }
}

fn best(points: &[Point]) -> f64 {
    points.iter().map(|point| point.per_s).fold(0.0, f64::max)
}

fn choose(points: &[Point], law: Option<Law>) -> Option<Derived<Choice>> {
    let highest = points.last()?.associations;
    if let Some(law) = law {
        let knee = law.knee().filter(|knee| *knee <= f64::from(highest));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most a level that was measured"
        )]
        let associations = knee.map_or(highest, |knee| knee.round().max(1.0) as u32);
        let rule = if knee.is_some() { Rule::Knee } else { Rule::Highest };
        let per_s = law.per_s(f64::from(associations));
        let why = match rule {
            Rule::Knee => format!("more than {associations} at work make the machine slower"),
            _ => format!("throughput still grows at {associations}, the most that was tried"),
        };
        let reason = format!(
            "{why}: σ {:.3}, κ {:.5}, λ {:.0}/s say what was measured within {:.0} %",
            law.sigma,
            law.kappa,
            law.lambda,
            law.residual * 100.0
        );
        return Some(Derived { value: Choice { associations, per_s, rule }, reason });
    }
    let best = best(points);
    let point = points.iter().find(|point| point.per_s >= best * SHARE_OF_BEST)?;
    let reason = format!(
        "{} are the fewest that reach 95 % of the best {best:.0}/s; the scalability law does not say what was measured",
        point.associations
    );
    let value = Choice { associations: point.associations, per_s: point.per_s, rule: Rule::Share };
    Some(Derived { value, reason })
}

/// One way to write N/X = a + b(N − 1) + cN(N − 1) with fewer parameters: which of its columns belong together.
type Face = &'static [&'static [usize]];

/// The law's bounds are b ≥ 0, c ≥ 0 and b ≤ a. The least squares within them lie inside, or on one of these faces: each
/// with b or c at 0, or with b = a.
const FACES: [Face; 6] =
    [&[&[0], &[1], &[2]], &[&[0], &[1]], &[&[0], &[2]], &[&[0]], &[&[0, 1], &[2]], &[&[0, 1]]];

impl Law {
    /// Messages a second.
    #[must_use]
    pub fn per_s(&self, associations: f64) -> f64 {
        let others = associations - 1.0;
        self.lambda * associations / (1.0 + self.sigma * others + self.kappa * associations * others)
    }

    /// N\*; none when throughput never falls.
    #[must_use]
    pub fn knee(&self) -> Option<f64> {
        let knee = ((1.0 - self.sigma) / self.kappa).sqrt();
        (self.kappa > 0.0 && knee.is_finite()).then_some(knee)
    }

    /// The law with the least squares of relative errors, if it says what was measured.
    ///
    /// N/X is linear in 1/λ, σ/λ and κ/λ, and an error of one part in a hundred in X is one in N/X: so the weighted
    /// linear problem is the whole problem, and nothing is sought step by step.
    fn of(points: &[Point]) -> Option<Self> {
        if points.len() < POINTS_MIN {
            return None;
        }
        let rows: Vec<[f64; 3]> = points
            .iter()
            .map(|point| {
                let associations = f64::from(point.associations);
                let weight = point.per_s / associations;
                [weight, weight * (associations - 1.0), weight * associations * (associations - 1.0)]
            })
            .collect();
        FACES
            .iter()
            .filter_map(|face| Self::on(face, &rows))
            .filter(|law| law.residual <= RESIDUAL_MAX)
            .min_by(|a, b| a.residual.total_cmp(&b.residual))
    }

    /// The best one of a face, if it is within the bounds.
    fn on(face: Face, rows: &[[f64; 3]]) -> Option<Self> {
        let columns: Vec<Vec<f64>> = face
            .iter()
            .map(|together| rows.iter().map(|row| together.iter().map(|column| row[*column]).sum()).collect())
            .collect();
        let solved = least_squares(&columns)?;
        let mut parameters = [0.0; 3];
        for (together, value) in face.iter().zip(solved) {
            for column in *together {
                parameters[*column] = value;
            }
        }
        let [a, b, c] = parameters;
        let (lambda, sigma, kappa) = (a.recip(), b / a, c / a);
        let is_within = lambda.is_finite() && lambda > 0.0 && (0.0..=1.0).contains(&sigma) && kappa >= 0.0;
        let errors = rows.iter().map(|row| (row[0] * a + row[1] * b + row[2] * c - 1.0).powi(2));
        #[expect(clippy::cast_precision_loss, reason = "a handful of levels")]
        let residual = (errors.sum::<f64>() / rows.len() as f64).sqrt();
        (is_within && residual.is_finite()).then_some(Self { lambda, sigma, kappa, residual })
    }
}

/// What to multiply the columns with, so that their sum is nearest to one in each row. None when they depend on each
/// other.
fn least_squares(columns: &[Vec<f64>]) -> Option<Vec<f64>> {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // N(N − 1) is thousands of times as large as 1: with columns of length 1 nothing is lost by that.
    let lengths: Vec<f64> = columns.iter().map(|column| product(column, column).sqrt()).collect();
    let scaled: Vec<Vec<f64>> = columns
        .iter()
        .zip(&lengths)
        .map(|(column, length)| column.iter().map(|value| value / length).collect())
        .collect();
    let mut matrix: Vec<Vec<f64>> = scaled
        .iter()
        .map(|row| scaled.iter().map(|column| product(row, column)).chain([row.iter().sum()]).collect())
        .collect();
    let count = matrix.len();
    for pivot in 0..count {
        let largest =
            (pivot..count).max_by(|a, b| matrix[*a][pivot].abs().total_cmp(&matrix[*b][pivot].abs()))?;
        matrix.swap(pivot, largest);
        let head = matrix[pivot][pivot];
        if !head.is_finite() || head.abs() < 1e-12 {
            return None;
        }
        matrix[pivot].iter_mut().for_each(|value| *value /= head);
        let row = matrix[pivot].clone();
        for (_, other) in matrix.iter_mut().enumerate().filter(|(at, _)| *at != pivot) {
            let share = other[pivot];
            other.iter_mut().zip(&row).for_each(|(value, own)| *value -= share * own);
        }
    }
    Some(matrix.iter().zip(&lengths).map(|(row, length)| row[count] / length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEVELS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

    fn points(rates: impl IntoIterator<Item = f64>) -> Vec<Point> {
        LEVELS.into_iter().zip(rates).map(|(associations, per_s)| Point { associations, per_s }).collect()
    }

    fn law(lambda: f64, sigma: f64, kappa: f64) -> Law {
        Law { lambda, sigma, kappa, residual: 0.0 }
    }

    fn of_law(law: &Law) -> Vec<Point> {
        points(LEVELS.map(|level| law.per_s(f64::from(level))))
    }

    #[test]
    fn the_law_is_found_again_in_its_own_points() {
        let known = law(900.0, 0.05, 0.002);
        let curve = Curve::of(&of_law(&known)).unwrap();
        let found = curve.law.unwrap();
        assert!(
            (found.lambda / 900.0 - 1.0).abs() < 1e-6 && (found.sigma / 0.05 - 1.0).abs() < 1e-6,
            "{found:?}"
        );
        assert!((found.kappa / 0.002 - 1.0).abs() < 1e-6 && found.residual < 1e-9, "{found:?}");
        // √(0.95 / 0.002) = 21.8.
        let Choice { associations, rule, .. } = curve.choice.value;
        assert_eq!((associations, rule), (22, Rule::Knee));
        assert!(
            curve
                .choice
                .reason
                .starts_with("more than 22 at work make the machine slower: σ 0.050, κ 0.00200")
        );
    }

    #[test]
    fn a_curve_that_never_falls_is_capped_at_what_was_measured() {
        for known in [law(900.0, 0.0, 0.0), law(900.0, 0.1, 0.0), law(900.0, 0.01, 0.000_01)] {
            let curve = Curve::of(&of_law(&known)).unwrap();
            assert_eq!(
                (curve.choice.value.associations, curve.choice.value.rule),
                (64, Rule::Highest),
                "{known:?}"
            );
            assert!(curve.choice.reason.contains("still grows at 64"), "{}", curve.choice.reason);
        }
    }

    #[test]
    fn a_curve_that_the_law_does_not_say_gives_the_fewest_that_reach_95_percent() {
        // A saw: no law goes through this.
        let curve = Curve::of(&points([100.0, 900.0, 200.0, 990.0, 300.0, 1_000.0, 100.0])).unwrap();
        assert_eq!(curve.law, None);
        let Choice { associations, per_s, rule } = curve.choice.value;
        assert_eq!((associations, per_s, rule), (8, 990.0, Rule::Share));
        assert!(curve.choice.reason.starts_with("8 are the fewest that reach 95 % of the best 1000/s"));
        // Three points are too few for three parameters.
        let few = Curve::of(&points([500.0, 940.0, 1_000.0])).unwrap();
        assert_eq!((few.law, few.choice.value.associations), (None, 4));
    }

    #[test]
    fn a_curve_that_falls_from_the_start_has_its_knee_at_one() {
        let curve = Curve::of(&points([1_000.0, 700.0, 500.0, 260.0, 120.0, 60.0, 30.0])).unwrap();
        assert_eq!(curve.choice.value.associations, 1, "{curve:?}");
        assert!(curve.per_s_max() >= 1_000.0);
    }

    #[test]
    fn nothing_follows_from_points_that_are_none() {
        assert_eq!(Curve::of(&[]), None);
        let nonsense = [0.0, -5.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        assert_eq!(Curve::of(&points(nonsense)), None);
        assert_eq!(Curve::of(&[Point { associations: 0, per_s: 9.0 }]), None);
        let one = Curve::of(&points([7.0])).unwrap();
        assert_eq!((one.law, one.choice.value.associations), (None, 1));
        let twice = [7.0, 9.0, 8.0].map(|per_s| Point { associations: 3, per_s });
        assert_eq!(Curve::of(&twice).unwrap().points, [Point { associations: 3, per_s: 9.0 }]);
    }

    proptest! {
        #[test]
        fn a_law_is_found_behind_noise(
            lambda in 50.0..20_000.0_f64,
            sigma in 0.0..0.4_f64,
            kappa in 0.001..0.02_f64,
            noise in prop::array::uniform7(-0.02..0.02_f64),
        ) {
            let known = law(lambda, sigma, kappa);
            let mut points = of_law(&known);
            for (point, noise) in points.iter_mut().zip(noise) {
                point.per_s *= 1.0 + noise;
            }
            let curve = Curve::of(&points).unwrap();
            let found = curve.law.expect("two parts in a hundred do not hide a law");
            prop_assert!(found.residual <= 0.03);
            for level in LEVELS {
                let (is, was) = (found.per_s(f64::from(level)), known.per_s(f64::from(level)));
                prop_assert!((is / was - 1.0).abs() < 0.05, "{level}: {is} {was}");
            }
            // The top of the curve is flat: another place there, but no other throughput.
            let at_knee = known.per_s(f64::from(curve.choice.value.associations));
            let top = (1..=64).map(|level| known.per_s(f64::from(level))).fold(0.0, f64::max);
            prop_assert!(at_knee > 0.95 * top, "{:?}: {at_knee} {top}", curve.choice);
        }

        #[test]
        fn no_points_panic_and_the_choice_is_within_what_was_measured(
            points in prop::collection::vec((any::<u32>(), any::<f64>()), 0..12),
            small in prop::collection::vec((0..100_u32, 0.0..1e4_f64), 0..12),
        ) {
            for points in [points, small] {
                let points: Vec<Point> =
                    points.into_iter().map(|(associations, per_s)| Point { associations, per_s }).collect();
                if let Some(curve) = Curve::of(&points) {
                    let chosen = curve.choice.value;
                    let highest = curve.points.last().unwrap().associations;
                    prop_assert!((1..=highest).contains(&chosen.associations));
                    prop_assert!(chosen.per_s > 0.0);
                    if let Some(law) = curve.law {
                        prop_assert!((0.0..=1.0).contains(&law.sigma) && law.kappa >= 0.0);
                        prop_assert!(law.residual <= RESIDUAL_MAX);
                    }
                }
            }
        }
    }
}
