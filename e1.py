p='crates/oarlock-sim/src/health.rs'
t=open(p).read()
a=t.index("        let is_split = |run: &&Out|")
b=t.index("        Judgement { must_stay: must_stay.collect()")
t=t[:a]+'''        let set = |nodes: &mut dyn Iterator<Item = u16>| nodes.fold(0u64, |all, node| all | 1 << node);
        let of = |is: fn(&Basis) -> bool| set(&mut out.iter().filter(|run| is(&run.basis)).map(|run| run.node.0));
        let split = of(|basis| matches!(basis, Basis::Partition { .. }));
        let outvoted = of(|basis| matches!(basis, Basis::Outvoted { .. }));
        let late = of(|basis| matches!(basis, Basis::LeaseOver { .. }));
        // Whoever goes for another reason is none of those among whom the largest set is sought.
        let all = set(&mut members.iter().copied());
        let gone = set(&mut out.iter().map(|run| run.node.0)) & !split & !outvoted;
        let inside = all & !gone & !split;
        let others = set(&mut (0..self.troubled.len() as u16)) & !all;
        // A broken node may be of another version, and is nobody's loss.
        let stays = |node: u16| {
            let certain = || match 1 << node {
                bit if bit & gone != 0 => scene.renews(node),
                _ if outvoted != 0 => !scene.may_be_outvoted(node, inside, others),
                _ if split != 0 => scene.is_in_every_largest(node, all & !gone),
                _ => scene.renews(node),
            };
            !self.broken.contains_key(&node) && (self.is_sound(node, now) || certain())
        };
        let must_stay = members.iter().copied().filter(|node| stays(*node));
        let accused = out.iter().map(|run| run.node.0).filter(|node| (late | split | outvoted) >> node & 1 == 1);
        let wronged = accused.filter(|node| stays(*node));
'''+t[b:]
t=t.replace('''    /// A verdict has been decided: what''','''    /// A verdict has been decided: what''')
open(p,'w').write(t)
p='crates/oarlock-sim/src/ways.rs'
t=open(p).read()
t=t.replace('''        !subsets(others).any(rival)
    }
}
''','''        !subsets(others).any(rival)
    }

    /// May `inside`, whoever of the view does not go for another reason, be in the way of a set without this node that is
    /// larger than `inside`, has the proposer in it, and of whom nobody is known not to hear another? Each of `others`
    /// may wait to be let in, or not.
    pub(crate) fn may_be_outvoted(&self, node: u16, inside: u64, others: u64) -> bool {
        let (good, parted) = self.rows(inside | others);
        let outvotes = |set: u64| {
            let larger = set >> self.by & 1 == 1 && set.count_ones() > inside.count_ones();
            let whole = || each(set).all(|a| parted[usize::from(a)] & set == 0);
            larger && whole() && set.count_ones() >= largest_with(node, set, inside | set, &good)
        };
        (inside | others).count_ones() > SEARCHED_MAX || subsets((inside | others) & !(1 << node)).any(outvotes)
    }

    /// With whom each of these certainly can talk, and with whom it certainly cannot.
    fn rows(&self, members: u64) -> (Vec<u64>, Vec<u64>) {
        let row = |a: u16, is: &dyn Fn(u16) -> bool| {
            each(members).filter(|b| *b != a && is(*b)).fold(0u64, |all, b| all | 1 << b)
        };
        let good = (0..64).map(|a| row(a, &|b| self.hear(a, b))).collect();
        let parted = (0..64).map(|a| row(a, &|b| self.part(a, b))).collect();
        (good, parted)
    }
}
''')
a=t.index("        let row = |a: u16, is: &dyn Fn(u16) -> bool| {\n            each(members).filter(|b| *b != a && is(*b)).fold(0u64, |all, b| all | 1 << b)\n        };\n        let good: Vec<u64>")
b=t.index("        // A set without the node that may be one of those")
t=t[:a]+"        let (good, parted) = self.rows(members);\n"+t[b:]
t=t.replace('''    /// Whoever hears nothing says so; whoever is not heard need not know.''','''    /// Two are in, three wait; the links between the two sides are cut.
    #[test]
    fn only_a_set_larger_than_the_view_outvotes_and_not_who_is_in_it() {
        let cut: Vec<(u16, u16)> = [0, 1].into_iter().flat_map(|a| [2, 3, 4].map(|b| (a, b))).collect();
        let ways = self::cut(&cut);
        let scene = |by, well| Scene { by, now: 20 * S, well, voters: ALL, ways: &ways };
        let outvoted = |by, well, inside: u64| {
            each(inside).filter(|n| scene(by, well).may_be_outvoted(*n, inside, ALL & !inside)).collect::<Vec<_>>()
        };
        assert_eq!(outvoted(2, ALL, 0b00011), [0, 1]);
        // Three are in: the two others are too few, and of a set that is half inside and half outside it is known that it is none.
        assert_eq!(outvoted(0, ALL, 0b11100), [0; 0]);
        // Of those who wait nobody is certain, but the proposer knows whom it does not hear itself.
        assert_eq!(outvoted(2, 0b00011, 0b00011), [0, 1]);
        assert_eq!(outvoted(0, 0b11100, 0b11100), [0; 0]);
        // Nothing is cut: who is in is heard by all, and none is in the way.
        let whole = Ways::default();
        let scene = Scene { by: 2, now: 20 * S, well: ALL, voters: ALL, ways: &whole };
        assert!(!scene.may_be_outvoted(0, 0b00011, 0b11100));
    }

    /// Whoever hears nothing says so; whoever is not heard need not know.''')
open(p,'w').write(t)
