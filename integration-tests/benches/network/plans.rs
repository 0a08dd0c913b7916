//! What planning a backbone costs: 16 to 128 interior sites with 100 to 10,000 member sites in up to 50 networks. Each line
//! gives the time of a full plan, and what a site costs in proportion to the size before: 1.0 is linear growth. Beside it
//! stands the same for a copy of that plan, which computes nothing: what it grows by is the machine's memory, and not ours.
//! The last line is the plan of one membership change at the largest size.

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
const RUNS: u32 = 25;

/// What one site costs at each size, and how that grew.
#[derive(Default)]
struct Growth {
    before: Option<f64>,
}

/// Plans each size, and one change of the largest.
pub fn measure() {
    let (mut planning, mut copying) = (Growth::default(), Growth::default());
    println!("\nPlans");
    println!(
        "{:>8} {:>8} {:>9} {:>10} {:>10} {:>7} {:>10} {:>7}",
        "interior", "members", "networks", "full plan", "per site", "ratio", "copy of it", "ratio"
    );
    for (interiors, members, networks) in SIZES {
        let world = world(interiors, members, networks);
        let all = Concern {
            sites: world.interiors.keys().cloned().collect(),
            members: world.members.iter().map(|m| m.id.clone()).collect(),
        };
        let sites = interiors + members;
        let took = best(|| assert_eq!(plan(&world, &all).len(), sites));
        let planned = plan(&world, &all);
        let copied = best(|| assert_eq!(planned.clone().len(), sites));
        let full = format!("{:.1} ms", took.as_secs_f64() * 1e3);
        let (ours, copy) = (planning.step(took, sites), copying.step(copied, sites));
        println!("{interiors:>8} {members:>8} {networks:>9} {full:>10} {ours} {copy}");
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

// === impl Growth ===

impl Growth {
    /// What a site costs at the next size, and in proportion to the one before.
    fn step(&mut self, took: Duration, sites: usize) -> String {
        let each = took.as_secs_f64() / sites as f64;
        let ratio = self.before.map_or("-".into(), |before| format!("{:.2}", each / before));
        self.before = Some(each);
        format!("{:>10} {ratio:>7}", format!("{:.2} µs", each * 1e6))
    }
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
    it.trust.insert("backbone/bb".into(), [vec![7; 500]].into());
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
        it.trust.insert(format!("network/{id}"), [vec![7; 500]].into());
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
