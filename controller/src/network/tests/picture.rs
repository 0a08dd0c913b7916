use crate::network::picture::{SIZE, places};

fn far(one: (f64, f64), other: (f64, f64)) -> f64 {
    (one.0 - other.0).hypot(one.1 - other.1)
}

#[test]
fn a_hundred_sites_stay_apart_and_in_sight_and_stand_where_they_stood() {
    let links: Vec<_> = (0..100).flat_map(|n| [(n, (n + 1) % 100), (n, (n + 7) % 100)]).collect();
    let found = places(100, &links);
    for (n, one) in found.iter().enumerate() {
        assert!((0.0..=SIZE.0).contains(&one.0) && (0.0..=SIZE.1).contains(&one.1), "{one:?}");
        // Circles of a radius of 9 do not cover one another.
        assert!(found[n + 1..].iter().all(|other| far(*one, *other) > 18.0), "{n} is covered");
    }
    assert_eq!(places(100, &links), found);
}

#[test]
fn who_is_linked_stands_nearer_than_who_is_not() {
    let found = places(3, &[(0, 1)]);
    assert!(far(found[0], found[1]) < far(found[0], found[2]), "{found:?}");
    assert!(found.iter().all(|place| far(*place, (SIZE.0 / 2.0, SIZE.1 / 2.0)) < 400.0), "{found:?}");
    assert!(places(0, &[]).is_empty());
}
