interface Props {
  /** How full, from 0 to 1. */
  full: number;
}

/** A bag that fills as the list empties. The sentence beside it says the same, so it is only for the eye. */
export function Bag({ full }: Props) {
  const level = 84 - 50 * full;
  return (
    <svg className="bag" viewBox="0 0 96 96" aria-hidden="true">
      <clipPath id="inside">
        <rect x="12" y="32" width="72" height="52" rx="12" />
      </clipPath>
      <path className="bag-handle" d="M34 32v-8a10 10 0 0 1 10-10h8a10 10 0 0 1 10 10v8" />
      <rect className="bag-body" x="12" y="32" width="72" height="52" rx="12" />
      <g clipPath="url(#inside)">
        <rect className="bag-fill" x="12" width="72" height="60" style={{ transform: `translateY(${level}px)` }} />
      </g>
      <path className="bag-strap" d="M30 33v50M66 33v50" />
      <rect className="bag-edge" x="12" y="32" width="72" height="52" rx="12" />
    </svg>
  );
}
