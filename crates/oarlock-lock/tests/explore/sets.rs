//! The sizes that are explored.

use oarlock_layout::flags::Flags;
use oarlock_layout::mode::Mode::{self, CR, CW, EX, NL, PR, PW};

use super::menu::Menu;
use super::views::Plan;

const NONE: Flags = Flags::empty();
const THREE: [Mode; 3] = [NL, PR, EX];

/// Requests in every manner there is.
const MANNERS: [(Mode, Flags); 7] = [
    (PR, NONE),
    (EX, Flags::HEADQUE),
    (NL, Flags::EXPEDITE),
    (CW, Flags::ALTPR),
    (PR, Flags::ALTCW.union(Flags::NOQUEUE)),
    (PR, Flags::NOORDER),
    (EX, Flags::LOCAL),
];

/// What a commit must pass: under 90 s in a release build.
pub(crate) fn quick() -> Vec<Menu> {
    let mut menus = still();
    menus.extend(views(0));
    menus
}

/// One view.
fn still() -> Vec<Menu> {
    both(vec![
        Menu::new("two shadows", 2, 1, 5).modes(&THREE),
        Menu::new("three shadows", 3, 1, 4).modes(&THREE),
        Menu::new("two programs each", 2, 2, 4).modes(&THREE),
        Menu::new("two programs each with tries", 2, 2, 4).modes(&[NL, EX]).tries(),
        Menu::new("six modes", 2, 1, 4).modes(&Mode::ALL),
        Menu::new("tries", 2, 1, 4).modes(&[PR, EX]).tries(),
        values("values", 2, 4),
        Menu::new("values that cross", 2, 1, 4)
            .at(&[0, 0, 1])
            .only(&[(NL, Flags::VALBLK | Flags::FRESH), (CR, Flags::VALBLK), (EX, Flags::VALBLK)], &[])
            .writes(),
        invalid("blocks that are not to be believed", 6),
        Menu::new("tries that read", 2, 1, 5).only(
            &[(NL, Flags::VALBLK), (CR, Flags::VALBLK | Flags::NOQUEUE), (EX, NONE)],
            &[(CR, Flags::VALBLK | Flags::NOQUEUE), (NL, Flags::VALBLK)],
        ),
        Menu::new("tries beside questions", 2, 1, 4).at(&[0, 0, 0, 1]).only(
            &[(CR, NONE), (CR, Flags::VALBLK), (CR, Flags::FRESH), (PW, NONE)],
            &[(PW, Flags::NOQUEUE), (CR, Flags::VALBLK)],
        ),
        Menu::new("a question behind a try", 3, 1, 5).only(&[(CR, Flags::VALBLK)], &[(PW, Flags::NOQUEUE)]),
        Menu::new("headque before what was granted", 2, 1, 5)
            .at(&[0, 0, 1])
            .only(&[(CR, Flags::VALBLK), (EX, Flags::HEADQUE), (PW, NONE)], &[]),
        Menu::new("manners", 2, 2, 3)
            .only(&MANNERS, &[(NL, NONE), (EX, Flags::QUECVT), (EX, Flags::NODLCKWT)]),
        Menu::new("manners alone", 2, 1, 4)
            .only(&MANNERS, &[(PR, Flags::ALTCW), (EX, Flags::QUECVT)])
            .forgets(),
        // C20: a node may own more than its programs asked for.
        Menu::new("hints", 2, 2, 3).only(
            &[(PR, Flags::LIKELYEX), (CR, Flags::LIKELYPW | Flags::VALBLK), (EX, NONE)],
            &[(PW, Flags::VALBLK), (EX, NONE)],
        ),
        Menu::new("hints alone", 2, 1, 5)
            .only(&[(PR, Flags::LIKELYEX), (EX, NONE)], &[(EX, NONE), (PR, Flags::LIKELYEX)])
            .forgets(),
        Menu::new("ends and forgetting", 2, 1, 5).modes(&THREE).ends().forgets(),
        Menu::new("a full table", 2, 1, 4).modes(&[CR, EX]).pressed(),
        Menu::new("no retention", 2, 1, 5).modes(&THREE).unretained(),
        Menu::new("the master has programs", 2, 1, 5).modes(&THREE).master_at_last_shadow(),
        Menu::new("callers change counts", 2, 1, 5).modes(&THREE).fast(),
        Menu::new("callers change counts in between", 2, 1, 4).modes(&THREE).forgets().intruded(),
        Menu::new("callers and a full table", 2, 1, 4).modes(&[PR]).pressed().intruded(),
    ])
}

/// Nodes that die, join and come back, a shadow's and the master's, one after the other and in the middle of a recovery
/// (X10, X11, L11, scenarios 41 to 49). Programs are at `a` and `b`. `more`: so many actions more, for the night.
pub(crate) fn views(more: u8) -> Vec<Menu> {
    let of = |name: &str, nodes: u16, actions: u8| {
        Menu::new(name, nodes - 1, 1, actions + more).at(&[0, 1]).modes(&[PR, EX]).uncancelled()
    };
    let three = || Plan::of(&[0, 1, 2], 2);
    let four = || Plan::of(&[0, 1, 2, 3], 3);
    let shadow_dies = || three().then(&[1], &[], 2);
    let master_dies = || three().then(&[2], &[], 1);
    let joins = || Plan::of(&[0, 1], 1).then(&[], &[2], 2);
    let two_die = || Plan::of(&[0, 1, 2, 3], 3).then(&[3], &[], 2).then(&[2], &[], 0).briskly();
    let two_join = || joins().then(&[], &[3], 3).briskly();
    let tries = [(PR, Flags::NOQUEUE), (EX, Flags::NOQUEUE)];
    let ways = [(EX, NONE), (CW, NONE), (PR, NONE)];
    vec![
        of("a shadow's node dies", 3, 4).through(shadow_dies()),
        of("a shadow's node dies, fences", 3, 3).strict().through(shadow_dies().with_fences()),
        of("the master's node dies", 3, 3).through(master_dies()),
        of("the master's node dies, fences", 3, 3).strict().through(master_dies().with_fences()),
        of("a shadow's node dies, then the master's, fences", 4, 3)
            .through(four().then(&[1], &[], 3).then(&[3], &[], 2).briskly().with_fences()),
        of("a shadow's node dies, a master joins, fences", 4, 2)
            .through(three().then(&[1], &[], 2).then(&[], &[3], 3).briskly().with_fences()),
        of("a shadow's node dies as a master joins, fences", 4, 3)
            .through(three().then(&[1], &[3], 3).briskly().with_fences()),
        of("the master's node dies, another joins, fences", 4, 2)
            .through(three().then(&[2], &[], 1).then(&[], &[3], 3).briskly().with_fences()),
        of("a master joins, a shadow's node dies, fences", 4, 2)
            .through(three().then(&[], &[3], 3).then(&[1], &[], 3).briskly().with_fences()),
        of("a shadow's node comes back, fences", 3, 3)
            .through(three().then(&[1], &[1], 2).briskly().with_fences()),
        of("the master's node dies, tries", 3, 3).and(&tries, &tries).through(master_dies()),
        of("the master's node dies, converts", 3, 4)
            .only(&[(PR, NONE), (NL, NONE)], &ways)
            .through(master_dies()),
        of("the master's node dies, callers", 3, 3).fast().through(master_dies()),
        of("the master's node dies, cancels and ends", 3, 3)
            .only(&[(EX, NONE)], &[])
            .cancelled()
            .ends()
            .forgets()
            .through(master_dies()),
        of("a node joins", 3, 2).through(joins().in_pieces()),
        of("a node joins, briskly", 3, 4).through(joins().in_pieces().briskly()),
        of("the master comes back", 3, 2).through(three().then(&[2], &[2], 2)),
        of("two die", 4, 3).through(two_die()),
        of("two join", 4, 3).through(two_join()),
        blocks("blocks: a shadow's node dies", 3, 4 + more).through(shadow_dies()),
        blocks("blocks: the master's node dies", 3, 3 + more).through(master_dies().in_pieces()),
        blocks("blocks: a node joins", 3, 2 + more).through(joins().in_pieces()),
        blocks("blocks: a node joins, briskly", 3, 3 + more).through(joins().in_pieces().briskly()),
        blocks("blocks: two join", 4, 2 + more).through(two_join()),
        blocks("blocks: the master dies, another joins", 4, 2 + more)
            .through(three().then(&[2], &[], 1).then(&[], &[3], 3).briskly()),
        blocks("blocks: a writer dies, another joins", 4, 3 + more)
            .through(three().then(&[1], &[], 2).then(&[], &[3], 2).briskly()),
        blocks("blocks: writer and master die, one comes back", 4, 3 + more)
            .through(Plan::of(&[0, 1, 2, 3], 2).then(&[1, 2], &[], 3).then(&[], &[1], 1).briskly()),
        blocks("blocks: writer and master die, one is left", 3, 3 + more).through(
            Plan::of(&[0, 1, 2], 2).then(&[1, 2], &[], 0).then(&[], &[1], 1).briskly().with_fences(),
        ),
        blocks("blocks: the heir dies", 3, 3 + more).through(joins().then(&[2], &[], 1).briskly()),
        blocks("blocks: the heir comes back", 3, 3 + more).through(joins().then(&[2], &[2], 2).briskly()),
        blocks("blocks: callers write, a node joins", 3, 3 + more)
            .and(&[(PW, NONE)], &[])
            .fast()
            .through(joins().briskly()),
        forgotten("blocks: forgotten, then a node joins", 3).through(joins().briskly()),
        blocks("blocks: a full table, a node joins", 3, 3 + more).pressed().through(joins().briskly()),
        blocks("blocks: a full table, the master dies", 3, 3 + more).pressed().through(master_dies()),
    ]
}

/// R11 in full and more; for the night.
pub(crate) fn full() -> Vec<Menu> {
    let mut menus = large();
    menus.extend(views(1));
    menus.push(
        forgotten("blocks: forgotten, then two join", 4)
            .through(Plan::of(&[0, 1], 1).then(&[], &[2], 2).then(&[], &[3], 3).briskly()),
    );
    menus
}

fn large() -> Vec<Menu> {
    both(vec![
        Menu::new("two shadows", 2, 1, 6).modes(&THREE).tries().forgets(),
        values("values", 2, 6),
        Menu::new("three shadows", 3, 1, 5).modes(&THREE),
        Menu::new("three shadows with tries", 3, 1, 4).modes(&[PR, EX]).tries(),
        Menu::new("two programs each", 2, 2, 4).modes(&THREE).tries(),
        Menu::new("six modes", 2, 1, 4).modes(&Mode::ALL),
        Menu::new("six modes, three shadows", 3, 1, 3).modes(&Mode::ALL),
    ])
}

/// Everything that has to do with the value block.
pub(crate) fn values(name: &str, shadows: u16, actions: u8) -> Menu {
    let v = Flags::VALBLK;
    Menu::new(name, shadows, 1, actions)
        .only(&[(NL, v), (CR, v), (PW, v), (EX, v)], &[(NL, NONE), (CR, v), (PW, v)])
        .writes()
        .ends()
}

/// What becomes of blocks, in few steps. Programs are at `a` and `b`.
pub(crate) fn blocks(name: &str, nodes: u16, actions: u8) -> Menu {
    let v = Flags::VALBLK;
    Menu::new(name, nodes - 1, 1, actions)
        .at(&[0, 1])
        .only(&[(NL, v), (PW, v)], &[(CR, v)])
        .writes()
        .uncancelled()
}

/// Blocks of those who gave their records up. Nobody but the master may know them then.
pub(crate) fn forgotten(name: &str, nodes: u16) -> Menu {
    let v = Flags::VALBLK;
    blocks(name, nodes, 4).only(&[(NL, v), (PW, v)], &[]).forgets().unretained()
}

/// Blocks of those who took their lock without one, blocks that are marked, and readers who go down.
pub(crate) fn invalid(name: &str, actions: u8) -> Menu {
    let v = Flags::VALBLK;
    let mut menu = Menu::new(name, 2, 1, actions)
        .only(&[(CR, v), (PW, NONE)], &[(NL, v), (CR, v.union(Flags::IVVALBLK))])
        .writes()
        .ends();
    menu.cancel = false;
    menu
}

fn both(menus: Vec<Menu>) -> Vec<Menu> {
    let strict: Vec<Menu> = menus.iter().cloned().map(Menu::strict).collect();
    menus.into_iter().chain(strict).collect()
}
