//! Where the sites of a backbone stand in a picture. Pure: the same backbone gives the same picture.

/// Width and height of the space that sites are laid out in.
pub const SIZE: (f64, f64) = (1000.0, 560.0);

/// Space left free at the edges, so that names have room.
const MARGIN: f64 = 60.0;

/// How strongly everything is drawn to the middle.
const GRAVITY: f64 = 1.5;

/// Nearer to one another than this no two sites stand, so that none covers another.
const CLEAR: f64 = 40.0;

/// Rounds of pushing and pulling; more change nothing that is seen.
const ROUNDS: u32 = 300;

/// A place for each of `count` sites; `links` are pairs of them. Sites push one another away and links pull theirs together
/// (Fruchterman and Reingold, 1991), which begins on a circle and cools down evenly.
pub fn places(count: usize, links: &[(usize, usize)]) -> Vec<(f64, f64)> {
    let (width, height) = (SIZE.0 - 2.0 * MARGIN, SIZE.1 - 2.0 * MARGIN);
    let angle = |n: usize| n as f64 / count.max(1) as f64 * std::f64::consts::TAU;
    let mut at: Vec<_> = (0..count).map(|n| (angle(n).cos() * width / 2.0, angle(n).sin() * height / 2.0)).collect();
    let ideal = (width * height / count.max(1) as f64).sqrt() * 0.7;
    for round in 0..ROUNDS {
        let heat = width / 10.0 * (1.0 - f64::from(round) / f64::from(ROUNDS));
        let mut push = vec![(0.0, 0.0); count];
        for one in 0..count {
            for other in 0..one {
                let (dx, dy, far) = between(at[one], at[other]);
                let force = ideal * ideal / far;
                shift(&mut push[one], dx / far * force, dy / far * force);
                shift(&mut push[other], -dx / far * force, -dy / far * force);
            }
        }
        for &(one, other) in links {
            let (dx, dy, far) = between(at[one], at[other]);
            let force = far * far / ideal;
            shift(&mut push[one], -dx / far * force, -dy / far * force);
            shift(&mut push[other], dx / far * force, dy / far * force);
        }
        for (place, (dx, dy)) in at.iter_mut().zip(push) {
            // Towards the middle, so that a site without links stays in sight of the others.
            let (dx, dy) = (dx - place.0 * GRAVITY, dy - place.1 * GRAVITY);
            let far = dx.hypot(dy).max(1e-6);
            let step = far.min(heat);
            place.0 = (place.0 + dx / far * step).clamp(-width / 2.0, width / 2.0);
            place.1 = (place.1 + dy / far * step).clamp(-height / 2.0, height / 2.0);
        }
    }
    for _ in 0..ROUNDS {
        for one in 0..count {
            for other in 0..one {
                let (dx, dy, far) = between(at[one], at[other]);
                let lack = (CLEAR.min(ideal) - far).max(0.0) / 2.0;
                shift(&mut at[one], dx / far * lack, dy / far * lack);
                shift(&mut at[other], -dx / far * lack, -dy / far * lack);
            }
        }
        for place in &mut at {
            place.0 = place.0.clamp(-width / 2.0, width / 2.0);
            place.1 = place.1.clamp(-height / 2.0, height / 2.0);
        }
    }
    at.into_iter().map(|(x, y)| ((x + SIZE.0 / 2.0).round(), (y + SIZE.1 / 2.0).round())).collect()
}

fn between(one: (f64, f64), other: (f64, f64)) -> (f64, f64, f64) {
    let (dx, dy) = (one.0 - other.0, one.1 - other.1);
    (dx, dy, dx.hypot(dy).max(0.01))
}

fn shift(force: &mut (f64, f64), dx: f64, dy: f64) {
    force.0 += dx;
    force.1 += dy;
}
