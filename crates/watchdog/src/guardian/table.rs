//! What a guardian does in which state: the whole table, in one place and without side effects.

use serde::{Deserialize, Serialize};

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The program runs.
    Running,
    /// Frozen by an operator, for a snapshot, or because the brain is lost. It may be thawed.
    Frozen,
    /// Frozen by a limit. It does not run again unless an operator or the workload's rule thaws it.
    Held,
    /// It was asked to end and has its grace.
    Stopping,
    /// A kill was not proven to have ended everything.
    Survivors,
    /// Nothing is left.
    Ended,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Running, Self::Frozen, Self::Held, Self::Stopping, Self::Survivors, Self::Ended];
}

/// What happens to a guardian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `CRITICAL_STOP` was ordered.
    Now,
    /// A stop was ordered that asks first.
    Stop,
    /// A freeze was ordered.
    Freeze,
    /// A thaw was ordered.
    Thaw,
    /// A limit calls for a freeze.
    BreachFreeze,
    /// A limit calls for a stop.
    BreachStop,
    /// A limit calls for `CRITICAL_STOP`.
    BreachCritical,
    /// The program has ended; others of the job may be left.
    MainExited,
    /// Nothing is left in the job.
    Emptied,
    /// The grace, or the longest time of a freeze, is over.
    Deadline,
    /// The time of a step of the stop is over, or the step has failed, and there is another.
    StepOver,
    /// The time is over for which somebody wanted the job to stand still, for a snapshot say.
    LeaseOver,
    /// The time of a freeze by a limit is over, and the workload's rule lets it run on.
    Release,
    /// The brain was away for longer than allowed, and the policy is to freeze.
    BrainLostFreeze,
    /// The brain was away for longer than allowed, and the policy is to stop.
    BrainLostStop,
    /// A new brain took over.
    Adopted,
    /// Time to try a kill again that was not proven.
    Retry,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Now,
        Self::Stop,
        Self::Freeze,
        Self::Thaw,
        Self::BreachFreeze,
        Self::BreachStop,
        Self::BreachCritical,
        Self::MainExited,
        Self::Emptied,
        Self::Deadline,
        Self::StepOver,
        Self::LeaseOver,
        Self::Release,
        Self::BrainLostFreeze,
        Self::BrainLostStop,
        Self::Adopted,
        Self::Retry,
    ];
}

/// What the guardian does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is already so, or it does not matter any more.
    Nothing,
    /// Tell the caller that it cannot be done.
    Refuse(&'static str),
    /// Latch, freeze, capture, kill, prove.
    Emergency,
    /// Freeze, kill, prove, without a latch.
    Kill,
    /// Take the first step of the stop and start its time.
    Ask,
    /// Take the next one.
    AskNext,
    /// Thaw, then ask: a frozen process cannot answer.
    ThawAndAsk,
    /// Freeze and start the longest time of a freeze.
    Freeze,
    /// Thaw.
    Thaw,
    /// Ask what the program left behind to end too, within what is left of the grace.
    AskRest,
    /// The job is over: report it.
    Finish,
    /// Say how it ended, again.
    Repeat,
}

/// What to do on `event` in `state`. The state that follows is the action's: a kill may end in [`State::Ended`] or
/// [`State::Survivors`].
pub fn action(state: State, event: Event) -> Action {
    use Action as A;
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Ended, E::Now | E::Stop) => A::Repeat,
        (S::Ended, E::Freeze | E::Thaw) => A::Refuse("the job has ended"),
        (S::Ended, _) => A::Nothing,

        (_, E::Now | E::BreachCritical) => A::Emergency,
        (_, E::Emptied) => A::Finish,

        (S::Survivors, E::Stop | E::Retry | E::BreachStop | E::BreachFreeze | E::Deadline) => A::Kill,
        (S::Survivors, E::Freeze | E::Thaw) => A::Refuse("a stop is not proven yet"),

        (S::Running, E::Stop | E::BreachStop | E::BrainLostStop) => A::Ask,
        (S::Running, E::Freeze | E::BreachFreeze | E::BrainLostFreeze) => A::Freeze,
        (S::Running, E::MainExited) => A::Kill,

        (S::Frozen, E::Stop) => A::ThawAndAsk,
        (S::Frozen, E::Thaw | E::Adopted) => A::Thaw,
        (S::Frozen, E::BreachStop | E::MainExited | E::BrainLostStop) => A::Kill,

        // What a limit froze is not given the chance to run on.
        (S::Held, E::Stop | E::BreachStop | E::Deadline | E::MainExited | E::BrainLostStop) => A::Kill,
        (S::Held, E::Thaw | E::Release) => A::Thaw,

        (S::Stopping, E::StepOver) => A::AskNext,
        (S::Stopping, E::Deadline) => A::Kill,
        (S::Stopping, E::MainExited) => A::AskRest,
        (S::Stopping, E::Freeze | E::Thaw) => A::Refuse("the job is stopping"),
        (S::Stopping, E::BreachStop | E::BreachFreeze) => A::Nothing,

        // Whoever wanted it to stand still is gone, or forgot. A freeze without such a lease ends in a stop.
        (S::Frozen, E::LeaseOver) => A::Thaw,
        (S::Frozen, E::Deadline) => A::Kill,
        // A limit struck before the freeze took hold: from now on the limit holds it.
        (S::Frozen, E::BreachFreeze) => A::Freeze,

        (S::Running, E::Thaw | E::Deadline | E::StepOver | E::LeaseOver | E::Release | E::Adopted | E::Retry)
        | (S::Frozen, E::Freeze | E::BrainLostFreeze | E::StepOver | E::Release | E::Retry)
        | (
            S::Held,
            E::Freeze | E::BreachFreeze | E::BrainLostFreeze | E::StepOver | E::LeaseOver | E::Adopted | E::Retry,
        )
        | (
            S::Stopping,
            E::Stop | E::BrainLostFreeze | E::BrainLostStop | E::LeaseOver | E::Release | E::Adopted | E::Retry,
        )
        | (
            S::Survivors,
            E::MainExited
            | E::BrainLostFreeze
            | E::BrainLostStop
            | E::StepOver
            | E::LeaseOver
            | E::Release
            | E::Adopted,
        ) => A::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over every cell of the table: what must hold whatever else changes.
    #[test]
    fn no_cell_breaks_a_promise() {
        for state in State::ALL {
            for event in Event::ALL {
                let action = action(state, event);
                let cell = format!("{state:?} × {event:?} = {action:?}");
                let over = state == State::Ended;
                if matches!(event, Event::Now | Event::BreachCritical) && !over {
                    assert_eq!(action, Action::Emergency, "an emergency is never refused or put off: {cell}");
                }
                let released = state == State::Held && event == Event::Release;
                if matches!(state, State::Held | State::Survivors | State::Stopping)
                    && event != Event::Thaw
                    && !released
                {
                    assert!(
                        !matches!(action, Action::Thaw | Action::ThawAndAsk | Action::Ask)
                            && (action != Action::AskNext || state == State::Stopping),
                        "nothing but a person, or the rule of the workload, lets it run on: {cell}"
                    );
                }
                if over {
                    assert!(
                        matches!(action, Action::Nothing | Action::Repeat | Action::Refuse(_)),
                        "what has ended stays ended: {cell}"
                    );
                }
                if event == Event::Emptied && !over {
                    assert_eq!(action, Action::Finish, "an end is always noticed: {cell}");
                }
                if matches!(action, Action::Refuse(_)) {
                    assert!(
                        matches!(event, Event::Freeze | Event::Thaw),
                        "only a freeze or a thaw can be refused: {cell}"
                    );
                }
            }
        }
    }
}
