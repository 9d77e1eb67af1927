/**
 * Milliseconds that only go up. The wall clock is used because it shows that a laptop slept; when it is set back, the
 * difference is made up for, so that time goes on from where it was instead of standing still until then.
 */
export class Clock {
  private last = 0;
  private skew = 0;

  constructor(private readonly wall: () => number = Date.now) {}

  now(): number {
    const now = this.wall() + this.skew;
    if (now < this.last) this.skew += this.last - now;
    this.last = Math.max(this.last, now);
    return this.last;
  }
}
