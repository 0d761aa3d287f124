// Every word on the page that you are likely to change. The components only lay it out.

export const site = {
  name: "Hearth",
  description: "Sourdough from a small oven, at your door by seven.",
  email: "hello@hearth.example",
};

export const hero = {
  title: "Warm bread, at your door by seven.",
  lede: "We bake through the night for the streets around the oven. You open the door, and breakfast is there.",
  action: { label: "Choose your loaves", href: "#prices" },
  second: { label: "How the week goes", href: "#week" },
  note: "No contract. Skip a week by answering a message.",
};

export interface Note {
  title: string;
  text: string;
}

export const promises: Note[] = [
  {
    title: "Three ingredients",
    text: "Flour, water, salt. The rest is thirty hours of waiting, which nobody has found a way around.",
  },
  {
    title: "A mill we can see",
    text: "The grain grows within forty kilometres and is ground the day before it meets the dough.",
  },
  {
    title: "Carried, not shipped",
    text: "Two bicycles and a paper bag. A loaf travels for twenty minutes at most and arrives with a crackle.",
  },
];

export interface Day extends Note {
  when: string;
}

export const week: Day[] = [
  { when: "Monday", title: "The starter is fed", text: "You have until the evening to change what you get." },
  { when: "Tuesday", title: "The dough is mixed", text: "By hand, in four tubs, and folded every half hour." },
  { when: "Wednesday", title: "It rests in the cold", text: "A whole day. This is where the taste comes from." },
  { when: "Thursday", title: "We bake, you sleep", text: "Into the oven at two, at your door by seven." },
];

export interface Plan {
  name: string;
  price: string;
  per: string;
  text: string;
  items: string[];
  favourite?: boolean;
}

export const plans: Plan[] = [
  {
    name: "Half",
    price: "€5",
    per: "a week",
    text: "For one who likes toast.",
    items: ["Half a country loaf", "Thursdays by seven", "Skip any week"],
  },
  {
    name: "Whole",
    price: "€9",
    per: "a week",
    text: "For a table of two or three.",
    items: ["A new kind of loaf each week", "Thursdays by seven", "Skip any week", "A jar of starter, once you ask"],
    favourite: true,
  },
  {
    name: "House",
    price: "€16",
    per: "a week",
    text: "For a full house.",
    items: ["Two loaves of your choice", "Four morning rolls", "Thursdays by seven", "Skip any week"],
  },
];

export const questions: Note[] = [
  {
    title: "What if I am still asleep?",
    text: "Hang a bag on the door, or tell us where the dry corner is. The loaf keeps its crust until you are up.",
  },
  {
    title: "Do you bake without gluten?",
    text: "No. There is flour in the air here, and we would rather say no than nearly.",
  },
  {
    title: "How far do you ride?",
    text: "Three kilometres from the oven. If you live a little further, ask: a neighbour of yours may be on the way.",
  },
  {
    title: "How do I stop?",
    text: "Answer any of our messages with “stop”. We will miss you, and we will not write about it.",
  },
];
