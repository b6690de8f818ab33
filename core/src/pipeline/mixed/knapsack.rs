//! The best choice of each group under a budget: the multiple-choice knapsack problem, solved exactly.

/// One possibility of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// What it takes from the budget.
    pub cost: u64,
    /// What it loses. A finite number.
    pub loss: f64,
}

/// Picks one choice of each group, so that the sum of losses is the smallest of all whose costs are within the budget. Returns
/// the number of each group's choice; `None` if even the cheapest choices cost more, or a group is empty.
///
/// Groups are added one after the other. Of the partial sums those are kept that no cheaper one equals or beats, and that could
/// still become better than a known solution: the rest of the groups loses at least what the linear relaxation of the problem
/// says (Sinha and Zoltners, The Multiple-Choice Knapsack Problem, Operations Research 27, 1979). Of equal solutions the first
/// one found is returned.
pub fn best_choices(groups: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let rests = rests(groups)?;
    let known = greedy(groups, budget)?;
    // States of all levels, each a partial sum with the choice that led to it and the state before.
    let mut arena = vec![State { cost: 0, loss: 0.0, choice: 0, before: 0 }];
    let mut level = 0..1;
    for (group, rest) in groups.iter().zip(&rests[1..]) {
        let mut next = Vec::new();
        for before in level.clone() {
            let State { cost, loss, .. } = arena[before];
            for (choice, c) in group.iter().enumerate() {
                let Some(cost) = cost.checked_add(c.cost).filter(|cost| *cost <= budget) else { continue };
                let loss = loss + c.loss;
                if rest.bound(budget - cost).is_some_and(|more| loss + more <= known) {
                    next.push(State { cost, loss, choice, before });
                }
            }
        }
        // Stable, so that of equal states the first one stays.
        next.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.loss.total_cmp(&b.loss)));
        let start = arena.len();
        let mut best = f64::INFINITY;
        for state in next {
            if state.loss < best {
                best = state.loss;
                arena.push(state);
            }
        }
        level = start..arena.len();
    }
    // The last state has the smallest loss.
    let mut at = level.last()?;
    let mut choices = Vec::with_capacity(groups.len());
    for _ in groups {
        choices.push(arena[at].choice);
        at = arena[at].before;
    }
    choices.reverse();
    Some(choices)
}

struct State {
    cost: u64,
    loss: f64,
    choice: usize,
    before: usize,
}

/// The choices of a group that the linear relaxation mixes: with growing cost, each step loses less and saves less for its cost.
fn hull(group: &[Choice]) -> Vec<Choice> {
    let mut sorted = group.to_vec();
    sorted.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.loss.total_cmp(&b.loss)));
    let mut hull: Vec<Choice> = Vec::new();
    for c in sorted {
        if hull.last().is_some_and(|last| c.loss >= last.loss) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            if Step::between(a, b).saving() > Step::between(b, c).saving() {
                break;
            }
            hull.pop();
        }
        hull.push(c);
    }
    hull
}

/// From one choice of a group to the next dearer one.
#[derive(Debug, Clone, Copy)]
struct Step {
    group: usize,
    cost: u64,
    gain: f64,
}

impl Step {
    fn between(a: Choice, b: Choice) -> Self {
        Self { group: 0, cost: b.cost - a.cost, gain: a.loss - b.loss }
    }

    /// What it gains for its cost.
    fn saving(&self) -> f64 {
        self.gain / self.cost as f64
    }
}

/// The steps of all groups, those that gain most for their cost first.
fn steps(hulls: &[Vec<Choice>]) -> Vec<Step> {
    let of_group = |(group, hull): (usize, &Vec<Choice>)| {
        hull.windows(2).map(|pair| Step { group, ..Step::between(pair[0], pair[1]) }).collect::<Vec<_>>()
    };
    let mut steps: Vec<Step> = hulls.iter().enumerate().flat_map(of_group).collect();
    steps.sort_by(|a, b| b.saving().total_cmp(&a.saving()));
    steps
}

/// The linear relaxation of the groups from one on.
struct Rest {
    /// What the cheapest choices cost and lose.
    cheapest: Choice,
    /// Sums of the first steps' costs, and of their gains.
    sums: Vec<(u64, f64)>,
}

impl Rest {
    /// The least loss of these groups within a budget, if a group may mix two choices; `None` if the budget is too small.
    fn bound(&self, budget: u64) -> Option<f64> {
        let left = budget.checked_sub(self.cheapest.cost)?;
        let whole = self.sums.partition_point(|(cost, _)| *cost <= left);
        let (cost, gain) = if whole == 0 { (0, 0.0) } else { self.sums[whole - 1] };
        let part = self
            .sums
            .get(whole)
            .map_or(0.0, |(next, more)| (more - gain) * ((left - cost) as f64 / (next - cost) as f64));
        // Rounding must not raise it above what is possible.
        let bound = self.cheapest.loss - gain - part;
        Some(bound - 1e-12 * (self.cheapest.loss.abs() + gain.abs()))
    }
}

/// The relaxations of all groups, of those without the first, and so on; `None` if a group is empty.
fn rests(groups: &[Vec<Choice>]) -> Option<Vec<Rest>> {
    let hulls: Vec<Vec<Choice>> = groups.iter().map(|group| hull(group)).collect();
    (0..=groups.len())
        .map(|start| {
            let hulls = &hulls[start..];
            let mut cheapest = Choice { cost: 0, loss: 0.0 };
            for hull in hulls {
                let first = hull.first()?;
                cheapest.cost = cheapest.cost.saturating_add(first.cost);
                cheapest.loss += first.loss;
            }
            let mut sum = (0_u64, 0.0);
            let sums = steps(hulls).into_iter().map(|step| {
                sum = (sum.0.saturating_add(step.cost), sum.1 + step.gain);
                sum
            });
            Some(Rest { cheapest, sums: sums.collect() })
        })
        .collect()
}

/// The loss of a solution: from the cheapest choices all steps that fit, the best first.
fn greedy(groups: &[Vec<Choice>], budget: u64) -> Option<f64> {
    let hulls: Vec<Vec<Choice>> = groups.iter().map(|group| hull(group)).collect();
    let mut at = vec![0; hulls.len()];
    let mut cost = 0_u64;
    for hull in &hulls {
        cost = cost.checked_add(hull.first()?.cost)?;
    }
    if cost > budget {
        return None;
    }
    for Step { group, cost: more, .. } in steps(&hulls) {
        if cost + more <= budget {
            // Where a step of the group did not fit, the later ones do not follow it.
            let from = hulls[group][at[group]];
            if let Some(to) = hulls[group].get(at[group] + 1).filter(|to| to.cost - from.cost == more) {
                (cost, at[group]) = (cost + to.cost - from.cost, at[group] + 1);
            }
        }
    }
    let loss = hulls.iter().zip(at).fold(0.0, |loss, (hull, at)| loss + hull[at].loss);
    // Sums in another order differ in rounding.
    Some(loss + 1e-9 * loss.abs() + f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{stream, Purpose};

    /// The smallest loss within the budget, of all solutions.
    fn brute_force(groups: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let Some((group, rest)) = groups.split_first() else { return Some(0.0) };
        let losses = group.iter().filter_map(|c| Some(c.loss + brute_force(rest, budget.checked_sub(c.cost)?)?));
        losses.min_by(f64::total_cmp)
    }

    #[test]
    fn equals_trying_everything() {
        let mut solved = 0;
        for case in 0..500 {
            let random = stream(case, Purpose::Calibration, 0, 0);
            let mut drawn = 0;
            let mut draw = |count: usize| {
                drawn += 1;
                (random.uniform(drawn) * count as f64) as usize
            };
            // Small losses are often equal, and so are small costs.
            let (costs, losses) = ([3, 40, 5_000_000][draw(3)], [4, 1_000_000][draw(2)]);
            let groups: Vec<Vec<Choice>> = (0..1 + draw(6))
                .map(|_| {
                    let choices = 1 + draw(4);
                    (0..choices)
                        .map(|_| Choice { cost: draw(costs) as u64, loss: draw(losses) as f64 / 777.0 - 0.001 })
                        .collect()
                })
                .collect();
            let budget = (draw(costs) * groups.len()) as u64 / 2;
            let want = brute_force(&groups, budget);
            let chosen = best_choices(&groups, budget);
            assert_eq!(want.is_some(), chosen.is_some(), "case {case}");
            let (Some(want), Some(chosen)) = (want, chosen) else { continue };
            solved += 1;
            let of: Vec<Choice> = groups.iter().zip(&chosen).map(|(group, choice)| group[*choice]).collect();
            assert!(of.iter().map(|c| c.cost).sum::<u64>() <= budget, "case {case}");
            let got: f64 = of.iter().map(|c| c.loss).sum();
            // Sums in another order.
            assert!((got - want).abs() <= 1e-12 * (1.0 + want.abs()), "case {case}: {got}, {want}");
        }
        assert!(solved >= 200, "{solved}");
    }

    #[test]
    fn too_small_budgets_and_empty_groups_have_no_solution() {
        let group = vec![Choice { cost: 2, loss: 1.0 }, Choice { cost: 3, loss: 0.0 }];
        assert_eq!(best_choices(&[group.clone(), group.clone()], 3), None);
        assert_eq!(best_choices(&[group.clone(), group.clone()], 5), Some(vec![0, 1]).or(Some(vec![1, 0])));
        assert_eq!(best_choices(&[group, Vec::new()], 9), None);
        assert_eq!(best_choices(&[], 0), Some(Vec::new()));
    }
}
