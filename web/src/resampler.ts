/**
 * From one sample rate to another, block by block, by a polyphase windowed sinc.
 *
 * Output k lies at input position k * rate / newRate, so nothing is delayed or shifted. The window
 * is Kaiser's: Oppenheim and Schafer, Discrete-Time Signal Processing, 3rd edition, section 7.5.3,
 * equations 7.75 (beta) and 7.76 (length).
 */

const STOPBAND_DB = 100;
/** Where the stopband ends and the passband begins to fall, as shares of the lower Nyquist rate. */
const STOP = 1;
const PASS = 0.913;
const BETA = 0.1102 * (STOPBAND_DB - 8.7);
// Rates without a common divisor would need as many phases as the new rate has Hz, and a high rate
// many weights for each. With so many in all (16 MB), the nearest phase is off by -85 dB at most.
const MOST_WEIGHTS = 2 ** 22;

export class Resampler {
  private readonly up: number;
  private readonly down: number;
  /** Inputs on each side of an output. */
  private readonly half: number;
  /** (n_phases + 1, 2 * half): weights of the inputs, for positions of an output between two. */
  private readonly weights: Float32Array[] = [];
  private readonly nPhases: number;
  /** Inputs that outputs to come need; the first `half` stand before the recording, as silence. */
  private pending: Float32Array;
  /** Of the next output: its place in `pending`, less what stands before it, and its phase. */
  private at = 0;
  private phase = 0;
  private heard = 0;
  private written = 0;

  constructor(
    private readonly rate: number,
    private readonly newRate: number,
  ) {
    const divisor = greatestDivisor(rate, newRate);
    this.up = newRate / divisor;
    this.down = rate / divisor;
    const lower = Math.min(1, newRate / rate);
    const transition = Math.PI * (STOP - PASS) * lower;
    this.half = Math.ceil((STOPBAND_DB - 8) / (2.285 * transition) / 2);
    this.pending = new Float32Array(this.half);
    this.nPhases = Math.min(this.up, Math.floor(MOST_WEIGHTS / (2 * this.half)));
    if (rate === newRate) return;
    for (let phase = 0; phase <= this.nPhases; phase++) {
      this.weights.push(phaseWeights(phase / this.nPhases, this.half, ((PASS + STOP) / 2) * lower));
    }
  }

  /** (num_samples,) -> (any number,): the outputs that can be known by now. */
  push(block: Float32Array): Float32Array {
    this.heard += block.length;
    return this.rate === this.newRate ? block : this.filter(block, Infinity);
  }

  /** The last outputs: as many in all as the recording lasts at the new rate. */
  finish(): Float32Array {
    if (this.rate === this.newRate) return new Float32Array(0);
    const total = Math.round((this.heard * this.newRate) / this.rate);
    return this.filter(new Float32Array(2 * this.half), total);
  }

  private filter(block: Float32Array, total: number): Float32Array {
    const inputs = joined(this.pending, block);
    const size = 2 * this.half;
    const outputs = new Float32Array(Math.ceil((block.length * this.up) / this.down) + 1 + size);
    // Lost sound can last for hours, and has nothing to add up.
    const isSilent = inputs.every((each) => each === 0);
    let count = 0;
    for (; this.at + size <= inputs.length && this.written < total; count++, this.written++) {
      if (!isSilent) outputs[count] = this.output(inputs);
      this.phase += this.down;
      this.at += Math.floor(this.phase / this.up);
      this.phase %= this.up;
    }
    const done = Math.min(this.at, inputs.length);
    this.pending = inputs.slice(done);
    this.at -= done;
    return outputs.slice(0, count);
  }

  private output(inputs: Float32Array): number {
    const weights = this.weights[Math.round((this.phase * this.nPhases) / this.up)];
    let sum = 0;
    for (let i = 0; i < weights.length; i++) sum += weights[i] * inputs[this.at + i];
    return sum;
  }
}

/**
 * (2 * half,): weights of the inputs from half - 1 before to half after an output that is `offset`
 * of a sample behind an input, for a low-pass at `cutoff` of the Nyquist rate.
 */
function phaseWeights(offset: number, half: number, cutoff: number): Float32Array {
  const weights = new Float64Array(2 * half);
  for (let i = 0; i < 2 * half; i++) {
    const distance = i - half - offset;
    weights[i] = sinc(cutoff * distance) * kaiser(distance / (half + 1));
  }
  // Each phase passes a constant as it is: otherwise the phases' differences would be heard.
  const sum = weights.reduce((total, each) => total + each, 0);
  return Float32Array.from(weights, (each) => each / sum);
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/** From 1 at 0 to its edges at -1 and 1, and 0 outside. */
function kaiser(x: number): number {
  if (Math.abs(x) > 1) return 0;
  return bessel(BETA * Math.sqrt(1 - x * x)) / BESSEL_OF_BETA;
}

/** The modified Bessel function of the first kind, of order 0, by its series. */
function bessel(x: number): number {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

const BESSEL_OF_BETA = bessel(BETA);

function greatestDivisor(a: number, b: number): number {
  return b ? greatestDivisor(b, a % b) : a;
}

/** One array after the other. */
export function joined(first: Float32Array, second: Float32Array): Float32Array {
  const both = new Float32Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}
