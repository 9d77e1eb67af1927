use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Numbers that look like chance, the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

type Messages = Vec<(Entry, Vec<Term>)>;

/// Messages of 50 rooms with words of a few common and many rare ones.
fn messages(dice: &mut Dice, count: u64) -> Messages {
    (0..count)
        .map(|number| {
            let room = 7_000_000 + dice.below(50) as u32 * 999;
            let entry = Entry {
                at: 1_795_000_000_000 + number.cast_signed() * 3 - dice.below(50).cast_signed(),
                room,
                seq: number * 5 + dice.below(5),
            };
            let mut terms: Vec<Term> = (0..dice.below(8))
                .map(|_| {
                    let widest = dice.below(3000) + 1;
                    format!("w{:x}", dice.below(widest)).into_bytes()
                })
                .collect();
            terms.push(format!("room{room}").into_bytes());
            (entry, terms)
        })
        .collect()
}

/// What a segment answers, entry by entry.
fn ask(blocks: &[Vec<u8>], terms: &Terms) -> Vec<Entry> {
    let directory = Directory::decode(&blocks[0]).unwrap();
    assert_eq!(directory.blocks(), blocks.len());
    let mut places = Places::none(directory.count);
    for block in directory.posting_blocks(terms) {
        collect(&blocks[block], terms, &mut places).unwrap();
    }
    let entries: Vec<Entry> = (1..=directory.times.len())
        .flat_map(|block| decode_entries(&blocks[block]).unwrap())
        .collect();
    assert_eq!(entries.len(), directory.count);
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(place) = places.next(from) {
        found.push(entries[place as usize]);
        from = place + 1;
    }
    assert_eq!(found.len(), places.len());
    found
}

/// Whether a segment answers as its messages do.
fn is_right(blocks: &[Vec<u8>], messages: &Messages, terms: &Terms) -> bool {
    ask(blocks, terms) == expected(messages, terms)
}

fn expected(messages: &Messages, terms: &Terms) -> Vec<Entry> {
    let found: BTreeSet<Entry> = messages
        .iter()
        .filter(|(_, have)| have.iter().any(|term| terms.contain(term)))
        .map(|(entry, _)| *entry)
        .collect();
    found.into_iter().collect()
}

fn check(blocks: &[Vec<u8>], messages: &Messages) {
    let mut terms: BTreeSet<Term> = messages
        .iter()
        .flat_map(|(_, terms)| terms.clone())
        .collect();
    terms.extend(["", "a", "w", "wzzz", "z"].map(|word| word.as_bytes().to_vec()));
    let picked = terms.iter().step_by(terms.len() / 20 + 1);
    for term in picked.chain(terms.first()).chain(terms.last()) {
        let one = Terms::One(term.clone());
        assert!(is_right(blocks, messages, &one), "{one:?}");
        for letters in 1..=term.len() {
            let beginning = Terms::Beginning(term[..letters].to_vec());
            assert!(is_right(blocks, messages, &beginning), "{beginning:?}");
        }
    }
    assert!(is_right(
        blocks,
        messages,
        &Terms::Beginning(b"room".to_vec())
    ));
}

#[test]
fn every_term_finds_its_messages() {
    let mut dice = Dice(42);
    for count in [1, 2, 63, 64, 65, 1023, 1024, 1025, 5000] {
        let messages = messages(&mut dice, count);
        let built = build(messages.clone()).unwrap();
        assert_eq!(built.count, count as usize);
        assert_eq!(
            built.newest,
            messages.iter().map(|(e, _)| e.at).max().unwrap()
        );
        assert_eq!(
            built.oldest,
            messages.iter().map(|(e, _)| e.at).min().unwrap()
        );
        check(&built.blocks, &messages);
    }
    assert!(build(Vec::new()).is_none());
}

#[test]
fn long_lists_are_cut_into_blocks() {
    let messages: Messages = (0..40_000)
        .map(|number| {
            let entry = Entry {
                at: -number * 1000,
                room: number as u32 % 3,
                seq: number as u64,
            };
            let mut terms = vec![
                b"all".to_vec(),
                b"allx".to_vec(),
                format!("n{number}").into_bytes(),
            ];
            if number % 2 == 0 {
                terms.push(b"al".to_vec());
            }
            (entry, terms)
        })
        .collect();
    let built = build(messages.clone()).unwrap();
    assert!(
        built
            .blocks
            .iter()
            .all(|block| block.len() < 3 * POSTINGS_BYTES)
    );
    for terms in [
        Terms::One(b"all".to_vec()),
        Terms::One(b"al".to_vec()),
        Terms::One(b"allx".to_vec()),
        Terms::Beginning(b"all".to_vec()),
        Terms::Beginning(b"n3999".to_vec()),
        Terms::One(b"n17".to_vec()),
        Terms::One(b"ally".to_vec()),
    ] {
        assert!(is_right(&built.blocks, &messages, &terms), "{terms:?}");
    }
}

#[test]
fn merged_segments_answer_like_one() {
    let mut dice = Dice(7);
    let mut all = Messages::new();
    let mut segments = Vec::new();
    for count in [3000, 1, 700, 20, 2000] {
        let mut messages = messages(&mut dice, count);
        // Some are in several, with other terms.
        for number in 0..all.len().min(100) {
            let (entry, _) = all[number * 7 % all.len()];
            messages.push((entry, vec![format!("again{}", dice.below(9)).into_bytes()]));
        }
        segments.push(build(messages.clone()).unwrap().blocks);
        all.extend(messages);
    }
    let merged = merge(&segments, &[]).unwrap().unwrap();
    let distinct: BTreeMap<Entry, ()> = all.iter().map(|(entry, _)| (*entry, ())).collect();
    assert_eq!(merged.count, distinct.len());
    check(&merged.blocks, &all);
    let again = merge(&[merged.blocks.clone(), segments[0].clone()], &[])
        .unwrap()
        .unwrap();
    assert_eq!(again.blocks, merged.blocks);
    assert!(merge(&[] as &[Vec<Vec<u8>>], &[]).unwrap().is_none());
}

#[test]
fn times_lead_to_places() {
    let messages: Messages = (0..3000)
        .map(|number| {
            let entry = Entry {
                at: number / 4 * 10,
                room: 1,
                seq: number as u64,
            };
            (entry, vec![b"x".to_vec()])
        })
        .collect();
    let built = build(messages.clone()).unwrap();
    let directory = Directory::decode(&built.blocks[0]).unwrap();
    let sorted: Vec<Entry> = expected(&messages, &Terms::One(b"x".to_vec()));
    for (since, until) in [
        (0, 1),
        (0, 10_000),
        (5000, 5001),
        (2500, 7400),
        (-9, 0),
        (7490, 9999),
        (4940, 4941),
        (9999, 99_999),
    ] {
        let places = directory.places(since, until);
        for (place, entry) in (0_u32..).zip(&sorted) {
            let is_in = entry.at >= since && entry.at < until;
            assert!(
                !is_in || places.contains(&place),
                "{since} {until} {place} {places:?}"
            );
        }
        assert!(places.len() <= 3 * ENTRIES_MAX);
    }
}

#[test]
fn damage_is_noticed() {
    let built = build(messages(&mut Dice(1), 100)).unwrap();
    for block in &built.blocks {
        for end in 1..block.len() {
            let cut = &block[..end];
            // Whatever it is, it is an error or a shorter block, and nothing else.
            let _ = Directory::decode(cut);
            let _ = decode_entries(cut);
            let _ = collect(cut, &Terms::Beginning(Term::new()), &mut Places::none(100));
        }
    }
    assert!(Directory::decode(&[9]).is_err());
    let mut places = Places::none(10);
    let far = build(messages(&mut Dice(1), 100)).unwrap();
    let block = far.blocks.last().unwrap();
    let all = Terms::Beginning(Term::new());
    assert!(collect(block, &all, &mut places).is_err());
}

#[test]
fn sets_of_places() {
    let mut all = Places::range(200, 60..130);
    assert_eq!(
        (all.len(), all.next(0), all.next(61), all.next(130)),
        (70, Some(60), Some(61), None)
    );
    let mut some = Places::none(200);
    for place in [3, 64, 129, 199] {
        some.insert(place).unwrap();
    }
    assert!(some.insert(200).is_err());
    all.keep(&some);
    assert_eq!(
        (all.len(), all.next(0), all.next(65), all.next(130)),
        (2, Some(64), Some(129), None)
    );
    assert!(!all.is_empty());
    assert!(Places::none(0).is_empty());
    assert_eq!(Places::none(0).next(0), None);
}

#[test]
fn several_terms_are_looked_for_at_once() {
    let mut dice = Dice(3);
    let messages = messages(&mut dice, 5000);
    let built = build(messages.clone()).unwrap();
    let mut some: Vec<Term> = messages
        .iter()
        .step_by(397)
        .flat_map(|(_, terms)| terms.clone())
        .collect();
    some.push(b"no such".to_vec());
    some.sort_unstable();
    some.dedup();
    assert!(some.len() > 10);
    for terms in [&some[..], &some[..1], &some[some.len() - 1..], &[]] {
        let any = Terms::Any(terms.to_vec());
        assert!(is_right(&built.blocks, &messages, &any), "{any:?}");
    }
}

#[test]
fn rooms_are_left_out_of_what_is_merged() {
    let mut dice = Dice(11);
    let mut all = messages(&mut dice, 4000);
    let rooms = ["a", "b", "c"];
    for (number, (_, terms)) in all.iter_mut().enumerate() {
        terms.push(room_term(rooms[number % 3]));
    }
    // One entry for messages of two rooms: of these one is left out, and so the entry stays.
    all[3].1.push(room_term("b"));
    let segments = [
        build(all[..1500].to_vec()).unwrap().blocks,
        build(all[1400..].to_vec()).unwrap().blocks,
    ];
    let is_left = |(number, _): &(usize, &(Entry, Vec<Term>))| number % 3 == 1 || *number == 3;
    let left: Messages = all
        .iter()
        .enumerate()
        .filter(is_left)
        .map(|(_, message)| message.clone())
        .collect();
    let without = [room_term("a"), room_term("c"), room_term("unknown")];
    let merged = merge(&segments, &without).unwrap().unwrap();
    assert_eq!(merged.count, left.len());
    check(&merged.blocks, &left);
    let nothing = merge(&segments, &rooms.map(room_term)).unwrap();
    assert!(nothing.is_none());
}
