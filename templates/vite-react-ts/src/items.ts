// What a list is, and what can happen to one. No React here: these functions are easy to test and to move.

export interface Item {
  readonly id: string;
  readonly name: string;
  readonly packed: boolean;
}

export type Action =
  | { type: "added"; id: string; name: string }
  | { type: "toggled"; id: string }
  | { type: "removed"; id: string }
  | { type: "unpacked" };

export const FIRST_ITEMS: readonly Item[] = [
  { id: "passport", name: "Passport and tickets", packed: true },
  { id: "charger", name: "Phone charger", packed: true },
  { id: "raincoat", name: "Raincoat", packed: false },
  { id: "book", name: "The book you keep meaning to finish", packed: false },
  { id: "socks", name: "Three pairs of socks", packed: false },
];

/** The list after `action`; the list before it is left as it was. */
export function changed(items: readonly Item[], action: Action): readonly Item[] {
  switch (action.type) {
    case "added":
      return [...items, { id: action.id, name: action.name, packed: false }];
    case "toggled":
      return items.map((item) => (item.id === action.id ? { ...item, packed: !item.packed } : item));
    case "removed":
      return items.filter((item) => item.id !== action.id);
    case "unpacked":
      return items.map((item) => ({ ...item, packed: false }));
  }
}

/** How far along a list is, in words. */
export function summary(items: readonly Item[]): string {
  const left = items.filter((item) => !item.packed).length;
  if (items.length === 0) return "Nothing on the list yet.";
  if (left === 0) return "Everything is in. Have a good trip.";
  return left === 1 ? "One thing left to pack." : `${left} things left to pack.`;
}

export function isItems(value: unknown): value is readonly Item[] {
  return Array.isArray(value) && value.every(isItem);
}

function isItem(value: unknown): value is Item {
  if (typeof value !== "object" || value === null) return false;
  const { id, name, packed } = value as Record<string, unknown>;
  return typeof id === "string" && typeof name === "string" && typeof packed === "boolean";
}
