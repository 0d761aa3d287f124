import { useEffect, useReducer } from "react";

/** A reducer whose state is kept in this browser under `key`. What is stored but not `valid` is ignored. */
export function useStored<State, Action>(
  key: string,
  reduce: (state: State, action: Action) => State,
  first: State,
  valid: (value: unknown) => value is State,
) {
  const [state, dispatch] = useReducer(reduce, first, (fallback) => stored(key, valid) ?? fallback);
  useEffect(() => {
    try {
      localStorage.setItem(key, JSON.stringify(state));
    } catch {
      // A browser that stores nothing still shows the list.
    }
  }, [key, state]);
  return [state, dispatch] as const;
}

function stored<State>(key: string, valid: (value: unknown) => value is State): State | undefined {
  try {
    const value: unknown = JSON.parse(localStorage.getItem(key) ?? "null");
    return valid(value) ? value : undefined;
  } catch {
    return undefined;
  }
}
