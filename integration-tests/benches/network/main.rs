//! What planning a backbone costs: 16 to 128 interior sites with 100 to 10,000 member sites in up to 50 networks. Each line
//! gives the time of a full plan, and what a site costs in proportion to the size before: 1.0 is linear growth. The last
//! line is the plan of one membership change at the largest size, which is what a change has to wait for.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use muster_controller::network::{
    model::{AccessKind, Membership, Phase},
    plan::{AccessPoint, Concern, Interior, Link, Member, Network, Port, Snapshot, plan},
};

/// Interior sites, members, networks.
const SIZES: [(usize, usize, usize); 4] = [(16, 100, 5), (32, 1_000, 12), (64, 4_000, 25), (128, 10_000, 50)];

/// The best of so many runs counts: what disturbs a run only ever makes it longer.
const RUNS: u32 = 7;

fn main() {
    let mut before: Option<f64> = None;
    println!(
        "{:>8} {:>8} {:>9} {:>10} {:>10} {:>7}",
        "interior", "members", "networks", "full plan", "per site", "ratio"
    );
    for (interiors, members, networks) in SIZES {
        let world = world(interiors, members, networks);
        let all = Concern {
            sites: world.interiors.keys().cloned().collect(),
            members: world.members.iter().map(|m| m.id.clone()).collect(),
        };
        let took = best(|| assert_eq!(plan(&world, &all).len(), interiors + members));
        let each = took.as_secs_f64() / (interiors + members) as f64;
        let ratio = before.map_or("-".into(), |before| format!("{:.2}", each / before));
        let (took, micros) = (format!("{:.1} ms", took.as_secs_f64() * 1e3), format!("{:.2} µs", each * 1e6));
        println!("{interiors:>8} {members:>8} {networks:>9} {took:>10} {micros:>10} {ratio:>7}");
        before = Some(each);
    }
    let (interiors, members, networks) = SIZES[SIZES.len() - 1];
    let world = world(interiors, members, networks);
    let member = world.members[members / 2].clone();
    let site = world.access_points[&member.uplinks[0].0].site.clone();
    let hanging = |m: &&Member| m.uplinks[0].0 == member.uplinks[0].0;
    // What is loaded for one change: the member, the site it hangs on, and who else hangs there.
    let part = Snapshot { members: world.members.iter().filter(hanging).cloned().collect(), ..world.clone() };
    let one = Concern { sites: BTreeSet::from([site]), members: BTreeSet::from([member.id]) };
    let took = best(|| assert_eq!(plan(&part, &one).len(), 2));
    println!("one membership change of {members}: {:.2} ms", took.as_secs_f64() * 1e3);
}

fn best(mut run: impl FnMut()) -> Duration {
    let once = |run: &mut dyn FnMut()| {
        let begun = Instant::now();
        run();
        begun.elapsed()
    };
    (0..RUNS).map(|_| once(&mut run)).min().unwrap_or_default()
}

/// A ring of interior sites with chords; networks with a port at each eighth site; members spread over them.
fn world(interiors: usize, members: usize, networks: usize) -> Snapshot {
    let mut it = Snapshot::default();
    it.trust.insert("backbone/bb".into(), vec![vec![7; 500]]);
    for n in 0..interiors {
        let id = format!("site-{n}");
        let agent = Some(format!("agent-site-{n}").as_str().into());
        let site = Interior { id: id.as_str().into(), backbone: "bb".into(), router: format!("r-{id}"), agent };
        it.interiors.insert(site.id.clone(), site);
        for (kind, name, port) in [(AccessKind::Peer, "peers", 5671), (AccessKind::Member, "members", 6000)] {
            let point = AccessPoint {
                id: format!("{name}-{n}").as_str().into(),
                site: id.as_str().into(),
                kind,
                host: format!("{id}.test"),
                bind: String::new(),
                port,
            };
            it.access_points.insert(point.id.clone(), point);
        }
        for (step, cost) in [(1, 1), (7, 3)] {
            it.links.push(Link {
                id: format!("link-{n}-{step}").as_str().into(),
                access_point: format!("peers-{}", (n + step) % interiors).as_str().into(),
                site: id.as_str().into(),
                cost,
            });
        }
    }
    for n in 0..networks {
        let id = format!("net-{n}");
        it.trust.insert(format!("network/{id}"), vec![vec![7; 500]]);
        let network = Network {
            id: id.as_str().into(),
            backbone: "bb".into(),
            tenant: format!("tenant-{n}"),
            phase: Phase::Active,
        };
        it.networks.insert(network.id.clone(), network);
        for site in (n % 8..interiors).step_by(8) {
            let port = 6000 + u16::try_from(n).unwrap_or_default();
            it.ports.push(Port {
                access_point: format!("members-{site}").as_str().into(),
                network: id.as_str().into(),
                port,
            });
        }
    }
    for n in 0..members {
        let network = n % networks;
        let places = (interiors - network % 8).div_ceil(8);
        let site = network % 8 + n / networks % places * 8;
        it.members.push(Member {
            id: format!("member-{n}").as_str().into(),
            network: format!("net-{network}").as_str().into(),
            router: format!("r-member-{n}"),
            name: format!("member-{n}"),
            class: "gold".into(),
            agent: Some(format!("agent-member-{n}").as_str().into()),
            membership: Membership::Member,
            uplinks: vec![(format!("members-{site}").as_str().into(), 1)],
        });
    }
    it
}
