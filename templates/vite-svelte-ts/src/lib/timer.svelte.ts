// The timer, without a page. Time is read off the clock, never counted: a sleeping tab stays right.

const SECOND = 1000;
const MINUTE = 60 * SECOND;

export const LENGTHS = [15, 25, 50] as const;
export type Minutes = (typeof LENGTHS)[number];

export class FocusTimer {
  minutes = $state<Minutes>(25);
  /** How many were finished since the page was opened. */
  finished = $state(0);

  #left = $state(25 * MINUTE);
  #endsAt = $state<number | null>(null);
  #ticking: ReturnType<typeof setInterval> | undefined;

  readonly running = $derived(this.#endsAt !== null);
  /** How much is over, from 0 to 1. */
  readonly done = $derived(1 - this.#left / (this.minutes * MINUTE));
  readonly over = $derived(this.#left === 0);
  readonly untouched = $derived(this.#left === this.minutes * MINUTE);
  /** What is left, as a clock shows it: `24:59`. */
  readonly clock = $derived(clock(this.#left));

  start() {
    if (this.running) return;
    if (this.over) this.reset();
    this.#endsAt = Date.now() + this.#left;
    this.#ticking = setInterval(() => this.#tick(), SECOND / 4);
  }

  pause() {
    this.#tick();
    this.#stop();
  }

  reset(minutes = this.minutes) {
    this.#stop();
    this.minutes = minutes;
    this.#left = minutes * MINUTE;
  }

  #stop() {
    clearInterval(this.#ticking);
    this.#endsAt = null;
  }

  #tick() {
    if (this.#endsAt === null) return;
    this.#left = Math.max(0, this.#endsAt - Date.now());
    if (this.over) {
      this.#stop();
      this.finished += 1;
    }
  }
}

/** `clock(61_000)` is `01:01`. A second that has begun is shown until it is over. */
export function clock(milliseconds: number): string {
  const seconds = Math.ceil(milliseconds / SECOND);
  const parts = [Math.floor(seconds / 60), seconds % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}
