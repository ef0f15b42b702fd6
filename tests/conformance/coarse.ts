/**
 * How far values of order 1 may be off where a matrix unit rounds operands. To tf32 each is off by 2^-11 of itself at most, so a product by 2^-10, and a sum of k products of
 * order 1 by about 1e-3 * sqrt(k), as their errors are independent: that of the suite's longest, some 150, with what an epilogue makes of it (of 900 random problems none was
 * off by more than 0.006). bf16 has an eighth of the digits.
 */
export const COARSE = { tf32: 0.0125, half: 0.1 } as const;
