/** The landing page and the claim in German. */

export const words = {
  claimTitle: "Dieses Gerät zu deinem machen", claimHelp: "Es gehört noch niemandem und bedient vorher niemanden.",
  claimWhere: "Sein Bildschirm zeigt einen Code. Ohne Bildschirm steht er in der Datei claim-code.txt auf der ersten Partition der Karte.", claimCode: "Code", claimName: "Dein Name",
  claimRemember: "In diesem Browser Besitzer bleiben", claimGo: "Es gehört mir", claimWrong: "Das ist nicht der Code dieses Geräts. Vergleich ihn mit dem Bildschirm.",
  claimCodeNeeded: "Gib den Code ein, den das Gerät zeigt.", claimPlain: "Andere in diesem Netz könnten den Schlüssel hier mitlesen.", claimDone: "Dieses Gerät gehört dir",
  claimKey: "Das ist der Schlüssel zum Gerät. Er wird nur dieses eine Mal gezeigt.",
  claimKeep: "Bewahr ihn auf, wo nur du nachsiehst: Mit ihm kommst du aus anderen Browsern hinein, ohne ihn nur über die Karte.", claimChat: "Chat beginnen",
  claimTaken: "Dieses Gerät hat einen Besitzer",
  claimTakenHelp: "Wenn du das nicht warst, war jemand schneller: Leg eine leere Datei namens claim-again auf die erste Partition der Karte, starte das Gerät und nimm es mit dem neuen Code in Besitz.",
  claimedBy: "{name} hat dieses Gerät in Besitz genommen.", claimedByAt: "{name} hat dieses Gerät in Besitz genommen: {when}.", printTitle: "Den Fingerabdruck vergleichen",
  printHelp: "Nur du kannst feststellen, dass niemand zwischen dir und dem Gerät sitzt: Der Fingerabdruck in deinem Browser muss der auf seinem Bildschirm sein.",
  printWhere: "Chrome und Edge: „Nicht sicher“, dann das Zertifikat; dort stehen dieselben Ziffern ohne Doppelpunkte. Firefox: das Schloss, dann weitere Informationen, dann das Zertifikat. Safari: Zertifikat einblenden.",
  printPin: "Für den Befehl lantern: der Pin", landTitle: "Das ist {name}", landWhat: "Eine Lantern: Sie lässt Sprachmodelle auf diesem Gerät laufen, in deinem Netz, ohne Cloud.",
  landNew: "Es gehört noch niemandem. Geh weiter, um es zu deinem zu machen.", landClaimed: "Es hat einen Besitzer.", landWarnTitle: "Dein Browser wird dich warnen",
  landWarn: "Das Gerät beglaubigt sein Zertifikat selbst, denn niemand kann einen Namen in deinem Netz beglaubigen. Die Warnung sieht so aus:",
  landWarnHead: "⚠ Dies ist keine sichere Verbindung", landWarnText: "Hacker könnten versuchen …", landStep1: "Wähl „Erweitert“ (auch in Firefox; Safari: „Details einblenden“).",
  landStep2: "Wähl „Weiter zu {name}“ oder „Risiko akzeptieren“.", landOther: "Wenn der Name nicht gefunden wird",
  landOtherHelp: "Manche Telefone und Netze kennen keine Namen, die auf .local enden.", landPlain: "Wenn dein Browser dich nicht weiterlässt",
  landPlainHelp: "Chatten geht ohne HTTPS, aber jeder in diesem Netz kann mitlesen. In Besitz nehmen und betreuen lässt sich das Gerät so nicht.",
  landPlainGo: "Ohne Verschlüsselung weiter",
};
